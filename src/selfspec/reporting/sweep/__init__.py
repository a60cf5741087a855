"""The report of a sweep: HTML, Markdown and CSV."""
