"""Documents of a hub dataset, streamed: only the requested rows are downloaded."""

from __future__ import annotations

from collections.abc import Iterator

from selfspec.config.schema import RetrievalConfig
from selfspec.errors import UserError

SPLIT = "train"  # where retrieval.split is null


def read_hub_dataset(name: str, config: RetrievalConfig, field: str) -> Iterator[tuple[str, str]]:
    """(name:row, text) of each row of one split that has text.

    Raises:
        UserError: the dataset can't be read, or has no such field.
    """
    import datasets

    split = config.split or SPLIT
    try:
        rows = datasets.load_dataset(name, config.config, split=split, revision=config.revision, streaming=True)
        for number, row in enumerate(rows, 1):
            if field not in row:
                raise UserError(
                    f"{name} has no field '{field}' but {', '.join(row)}; name the one that holds the text with "
                    "retrieval.text_field=..."
                )
            if row[field] is not None and not isinstance(row[field], str):
                raise UserError(f"{name}, row {number}: field '{field}' holds no text; set retrieval.text_field=...")
            if row[field]:
                yield f"{name}:{number}", row[field]
    except (OSError, ValueError, RuntimeError) as error:  # the hub's and the network's errors are all of these
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"retrieval.corpus={name} is no file or folder here, and as a dataset of the hub (split {split}) it can't "
            f"be read ({reason}); check its name, retrieval.config and retrieval.split, or, without a network, give a "
            "folder with a copy of it."
        ) from error
