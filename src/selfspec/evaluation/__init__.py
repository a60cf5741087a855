"""Scores (METHOD, Evaluation): what a reply is worth, and how sure that is. No model is needed here, only its replies.

`answers` asks the model, `tasks` judges a reply by its kind, `metrics` measure text, `intervals` is the bootstrap,
`proper` gives a public set's own metric by its name.
"""
