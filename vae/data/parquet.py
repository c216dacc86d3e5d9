"""Parquet files that others may have written: their tables, bounded, of the right types and ranges."""

from collections.abc import Mapping
from pathlib import Path

from vae.training.files import check_regular

TIMES, ALWAYS = 100, 1 << 28  # a table may have so many times its file's bytes, and so many in any case
BATCH_ROWS = 256
MOST_AT_ONCE = 1 << 30  # bytes of row groups that are held in memory


def open_parquet(file: Path, advice: str):
    """A parquet file, of which nothing but what its footer says is read; ValueError for a damaged one."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(check_regular(file), pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is no parquet file, or damaged ({error}): {advice}") from None


def read_groups(opened, numbers: list[int], names: list[str], file: Path, advice: str):
    """The table of some columns of row groups; ValueError for a damaged one or one too large."""
    import pyarrow

    batches, total = [], 0
    try:
        for batch in opened.iter_batches(BATCH_ROWS, numbers, names, use_threads=False):
            batches.append(batch)
            if (total := total + batch.nbytes) > MOST_AT_ONCE:
                raise ValueError(
                    f"{file} has more than {MOST_AT_ONCE:,} bytes in some row groups: it is none of ours"
                )
        return pyarrow.Table.from_batches(batches, None if batches else opened.schema_arrow)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is no parquet file, or damaged ({error}): {advice}") from None


def read_parquet(file: Path, advice: str):
    """The table of a parquet file; ValueError for a damaged one, or one that unfolds to no size of ours."""
    import pyarrow
    import pyarrow.parquet

    most, batches, total = TIMES * check_regular(file).stat().st_size + ALWAYS, [], 0
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(BATCH_ROWS):
                batches.append(batch)
                if (total := total + batch.nbytes) > most:
                    raise ValueError(f"{file} unfolds to more than {most:,} bytes: it is none of ours")
            return pyarrow.Table.from_batches(batches, opened.schema_arrow)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is no parquet file, or damaged ({error}): {advice}") from None


def check_columns(table, types: Mapping, file: Path, advice: str):
    """The columns that are named, in their order; ValueError where one is not there, or of another type."""
    for name, kind in types.items():
        if name not in table.column_names:
            raise ValueError(f"{file} has no column {name}: {advice}")
        if table.column_names.count(name) > 1:
            raise ValueError(f"{file} has several columns {name}: {advice}")
        column = table[name]
        if column.type != kind:
            raise ValueError(f"{file}: its column {name} is of {column.type}, not {kind}: {advice}")
        parts = [column.combine_chunks()]
        while parts:
            part = parts.pop()
            if part.null_count:
                raise ValueError(f"{file}: its column {name} has a cell without a value: {advice}")
            if part.type.num_fields:  # a list, or a structure of fields
                inside = part.flatten()
                parts += inside if isinstance(inside, list) else [inside]
    return table.select(list(types))


def check_ranges(table, ranges: Mapping[str, tuple[float, float]], file: Path) -> None:
    """Raises ValueError where a number of a column is outside its range, or none."""
    import pyarrow.compute as compute

    for name, (low, high) in ranges.items():
        within = compute.and_(compute.greater_equal(table[name], low), compute.less_equal(table[name], high))
        if not compute.all(within, min_count=0).as_py():
            wrong = table[name].filter(compute.invert(within))[0].as_py()
            raise ValueError(f"{file}: {name} = {wrong}: it must be between {low:,} and {high:,}")
