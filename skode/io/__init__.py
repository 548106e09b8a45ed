"""Tables that do not fit in memory: their rows are read in blocks."""

from skode.io.arrays import ArrayTable
from skode.io.blocks import BlockTable
from skode.io.parquet import ParquetTable

__all__ = ["ArrayTable", "BlockTable", "ParquetTable"]
