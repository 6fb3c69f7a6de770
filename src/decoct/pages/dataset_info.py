"""Features and sizes of a distilled dataset's configurations, as the card's header declares them."""

from __future__ import annotations

from pathlib import Path

from datasets import DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import DatasetCardData

from decoct.distilled.parquet import ipc_files, open_parquet

__all__ = ["add_dataset_info"]

ROWS = 100  # read at a time


def add_dataset_info(data: DatasetCardData, folder: Path, ipcs: list[int]) -> None:
    """Adds `dataset_info` of the configurations whose files lie in the folder, as `datasets` itself writes it."""
    paths = {ipc: ipc_files(folder, ipc) for ipc in ipcs}
    infos = {f"ipc_{ipc}": info_of(files) for ipc, files in paths.items() if files}
    DatasetInfosDict(infos).to_dataset_card_data(data)


def info_of(paths: list[Path]) -> DatasetInfo:
    """Features, rows and bytes of one configuration; bytes of a split are those of its Arrow tables.

    Files are read a few rows at a time.
    """
    rows = size = 0
    for path in paths:
        with open_parquet(path) as file:
            features = Features.from_arrow_schema(file.schema_arrow)
            rows += file.metadata.num_rows
            size += sum(batch.nbytes for batch in file.iter_batches(batch_size=ROWS))
    return DatasetInfo(
        features=features,
        splits=SplitDict({"train": SplitInfo("train", num_bytes=size, num_examples=rows)}),
        download_size=sum(path.stat().st_size for path in paths),
        dataset_size=size,
    )
