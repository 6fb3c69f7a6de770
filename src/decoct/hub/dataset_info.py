"""Features and sizes of a distilled dataset's configurations, as the card's header declares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import DatasetInfo, Features
from datasets.splits import SplitDict, SplitInfo

__all__ = ["dataset_infos"]


def dataset_infos(folder: Path, ipcs: list[int]) -> list[dict[str, Any]]:
    """The card's `dataset_info`: an entry for each configuration whose files lie in the folder.

    Files are read a batch at a time. Bytes of a split are those of its Arrow tables, as `datasets` counts them.
    """
    return [info_of(f"ipc_{ipc}", paths) for ipc in ipcs if (paths := sorted(folder.glob(f"data/ipc_{ipc}/*.parquet")))]


def info_of(name: str, paths: list[Path]) -> dict[str, Any]:
    """The entry of one configuration."""
    rows = size = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            features = Features.from_arrow_schema(file.schema_arrow)
            rows += file.metadata.num_rows
            size += sum(batch.nbytes for batch in file.iter_batches(batch_size=1000))
    info = DatasetInfo(
        features=features,
        splits=SplitDict({"train": SplitInfo("train", num_bytes=size, num_examples=rows)}),
        download_size=sum(path.stat().st_size for path in paths),
        dataset_size=size,
    )
    return {"config_name": name, **info._to_yaml_dict()}
