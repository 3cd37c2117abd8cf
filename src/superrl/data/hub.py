"""Rows of a dataset on the Hugging Face hub, through the optional package `datasets`; a local folder is an ID too."""

from __future__ import annotations

from superrl.data.files import Row
from superrl.errors import UserError


def read_rows(name: str, split: str, config: str | None = None) -> list[Row]:
    """All rows of one split. `split` may be sliced, as in `train[:500]`."""
    where = f"hf:{name}?split={split}" + (f"&config={config}" if config else "")
    try:
        from datasets import Dataset, load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise UserError(f"{where} needs the package datasets: pip install 'superrl[data]'") from None
    try:
        table = load_dataset(name, config, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where} cannot be loaded: {reason[:300]}; check the name and the network") from None
    assert isinstance(table, Dataset)
    if not len(table):
        raise UserError(f"{where} holds no rows: choose another split")
    return [Row(values, where, number) for number, values in enumerate(table.to_list(), start=1)]
