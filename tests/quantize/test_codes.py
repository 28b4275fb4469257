"""`Codes` and `BlockValues`: what they refuse, and that rows keep all that rides with them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qindex import io
from qindex.formats import (
    E2M1,
    E4M3,
    E8M0,
    FLOAT16,
    FLOAT32,
    HALF3,
    INT4,
    INT5,
    INT8,
    NF4,
    SIGN,
    TABLE2,
    TABLE4,
    Format,
)
from qindex.types import MAX_DIM, BlockValues, Codes, Part

N, DIM = 6, 70  # five blocks of 16, the last cut short; three of 32; two of 48
RNG = np.random.default_rng(0)


def floats(*shape: int) -> NDArray[np.float32]:
    return RNG.uniform(0.5, 2, shape).astype(np.float32)


def blocks(*shape: int, size: int = 16, format: Format = FLOAT32) -> BlockValues:
    data: Any = floats(*shape)
    if format == FLOAT16:
        data = data.astype(np.float16)
    elif format != FLOAT32:
        data = RNG.integers(100, 120, shape, np.uint8)
    return BlockValues(data, format, size)


def made(format: Format = INT4, **fields: Any) -> Codes:
    return Codes(RNG.integers(0, 256, (N, format.row_bytes(DIM)), np.uint8), format, DIM, 1e6, **fields)


def part(format: Format, dim: int) -> Part:
    return Part(RNG.integers(0, 256, (N, format.row_bytes(dim)), np.uint8), format, dim)


def tables(*shape: int) -> NDArray[np.int8]:
    return RNG.integers(-128, 128, shape).astype(np.int8)


# Every part of a Codes, of each row and shared by all rows.
KINDS = {
    "bare": made(),
    "row scales and offsets": made(INT8, scale=floats(N), offset=floats(N)),
    "block scales": made(scales=(blocks(N, 5),)),
    "shared block scales": made(scales=(blocks(5, format=FLOAT16),)),
    "two levels": made(E2M1, scales=(blocks(N, 5, format=E4M3), blocks(N, 3, size=32))),
    "a scale of the matrix": made(E2M1, scales=(blocks(N, 5, format=E4M3), blocks(1, size=MAX_DIM))),
    "shared blocks under rows' own": made(scales=(blocks(5), blocks(N, 2, size=48, format=E8M0))),
    "column scales": made(scales=(blocks(DIM, size=1),)),
    "zeros": made(scales=(blocks(N, 5), blocks(DIM, size=1)), zero=blocks(N, 5, format=FLOAT16)),
    "shared zeros alone": made(zero=blocks(3, size=32)),
    "tables of blocks": made(TABLE4, scales=(blocks(N, 2, size=64),), tables=tables(N, 2, 16)),
    "tables of rows": made(TABLE2, scale=floats(N), tables=tables(N, 1, 4)),
    "one table": made(TABLE4, tables=tables(1, 16)),
    "shared tables of blocks": made(TABLE4, scales=(blocks(N, 2, size=64),), tables=tables(2, 16)),
    "everything": made(
        TABLE4, scale=floats(N), offset=floats(N), tables=tables(N, 2, 16), zero=blocks(2, size=64),
        scales=(blocks(N, 2, size=64, format=E8M0), blocks(N, 1, size=128), blocks(DIM, size=1)),
    ),
    "several parts": Codes(
        part(HALF3, 20).data, HALF3, DIM, 1e6, scales=(blocks(N, 1, size=80, format=FLOAT16), blocks(DIM, size=1)),
        offset=floats(N), more=(part(INT5, 40), part(SIGN, 10)),
    ),
}  # fmt: skip
every_kind = pytest.mark.parametrize("codes", KINDS.values(), ids=KINDS)


def parts(codes: Codes) -> dict[str, Any]:
    """Every array by name, and what else there is."""
    tree = {f"scales[{i}]": level for i, level in enumerate(codes.scales)}
    if codes.zero is not None:
        tree["zero"] = codes.zero
    arrays = {name: level.data for name, level in tree.items()}
    arrays |= {name: getattr(codes, name) for name in ("data", "scale", "offset", "tables")}
    arrays |= {f"more[{i}]": one.data for i, one in enumerate(codes.more)}
    kinds = [(format, dim) for _data, format, dim in codes.parts], [(one.format, one.size) for one in tree.values()]
    return {**arrays, "other": (codes.dim, kinds)}


def assert_equal(a: Codes, b: Codes) -> None:
    found, wanted = parts(a), parts(b)
    assert found.keys() == wanted.keys()
    for name in found:
        if isinstance(wanted[name], np.ndarray):
            assert found[name].dtype == wanted[name].dtype
            np.testing.assert_array_equal(found[name], wanted[name])
        else:
            assert found[name] == wanted[name]


SHARED_AXES = {"data": 1, "scale": 0, "offset": 0, "tables": 2}  # of an array that all rows share; blocks: 1


def chosen(codes: Codes, rows: Any) -> dict[str, Any]:
    """The parts, those of each row cut down to `rows`, by an own account of which these are."""
    return {
        name: part[rows] if isinstance(part, np.ndarray) and part.ndim > SHARED_AXES.get(name, 1) else part
        for name, part in parts(codes).items()
    }


# --- rows ------------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize(
    "rows",
    [slice(1, 4), slice(None, None, 2), slice(0, 0), np.array([5, 0, 0]), np.arange(N) % 2 == 0],
    ids=["slice", "steps", "none", "numbers", "mask"],
)
def test_chosen_rows_keep_what_is_theirs_and_share_what_is_shared(codes: Codes, rows: Any) -> None:
    found, wanted = parts(codes[rows]), chosen(codes, rows)
    for name in wanted:
        if isinstance(wanted[name], np.ndarray):
            np.testing.assert_array_equal(found[name], wanted[name])
            assert found[name].flags.c_contiguous
        else:
            assert found[name] == wanted[name]
    assert codes[rows].max_norm == codes.max_norm


@every_kind
def test_a_slice_copies_nothing_and_other_choices_do(codes: Codes) -> None:
    assert all(map(np.shares_memory, codes[2:5].rowwise, codes.rowwise))
    assert not any(map(np.shares_memory, codes[np.array([1, 2])].rowwise, codes.rowwise))


@every_kind
def test_rowwise_lists_the_arrays_of_the_rows_data_first(codes: Codes) -> None:
    assert codes.rowwise[0] is codes.data
    assert all(len(array) == N for array in codes.rowwise)
    everything = [part for part in parts(codes).values() if isinstance(part, np.ndarray)]
    cut = [part for part in chosen(codes, slice(0, 1)).values() if isinstance(part, np.ndarray)]
    assert {id(array) for array in codes.rowwise} == {
        id(whole) for whole, part in zip(everything, cut, strict=True) if whole is not part
    }


@every_kind
def test_every_byte_is_counted(codes: Codes) -> None:
    assert codes.nbytes == sum(part.nbytes for part in parts(codes).values() if isinstance(part, np.ndarray))


@every_kind
def test_with_rowwise_replaces_the_rows_and_nothing_else(codes: Codes) -> None:
    assert_equal(codes.with_rowwise(codes.rowwise), codes)
    twice = codes.with_rowwise([np.concatenate([array, array]) for array in codes.rowwise], 2e6)
    assert (len(twice), twice.max_norm) == (2 * N, 2e6)
    assert_equal(twice[N:], codes)


@every_kind
def test_with_rowwise_checks_what_it_is_given(codes: Codes) -> None:
    wrong = [array[:, :-1].copy() if array.ndim > 1 else array for array in codes.rowwise]
    with pytest.raises(ValueError, match=r"must be .*, got .*\(6, \d+"):
        codes.with_rowwise(wrong)


@every_kind
def test_concatenated_parts_are_the_whole(codes: Codes) -> None:
    cut = [codes[:2], dataclasses.replace(codes[2:3], max_norm=2e6), codes[3:3], codes[3:]]
    whole = Codes.concatenate(cut)
    assert_equal(whole, codes)
    assert whole.max_norm == 2e6


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_codes_are_like_those_of_their_kind_only(one: str, other: str) -> None:
    assert KINDS[one].is_like(KINDS[other][:3]) == (one == other)
    if one != other:
        with pytest.raises(ValueError, match=r"cannot concatenate .* codes of dim 70 with .* of dim 70, or"):
            Codes.concatenate([KINDS[one], KINDS[other]])


def test_codes_that_share_other_numbers_are_not_alike() -> None:
    for name in ("shared block scales", "a scale of the matrix", "column scales", "one table", "shared zeros alone"):
        codes = KINDS[name]
        (shared,) = codes._shared
        same, changed = shared.copy(), shared.copy()
        changed.flat[0] += 1

        def sharing(array: NDArray[Any], codes: Codes = codes, shared: NDArray[Any] = shared) -> Codes:
            def replaced(level: BlockValues) -> BlockValues:
                return dataclasses.replace(level, data=array) if level.data is shared else level

            return dataclasses.replace(
                codes,
                scales=tuple(map(replaced, codes.scales)),
                zero=None if codes.zero is None else replaced(codes.zero),
                tables=array if codes.tables is shared else codes.tables,
            )

        assert codes.is_like(sharing(same))
        assert not codes.is_like(sharing(changed))


def test_blocks_and_columns_are_told_apart() -> None:
    codes = KINDS["everything"]
    assert [level.size for level in codes.blocks] == [64, 128]
    assert codes.block == 64
    np.testing.assert_array_equal(codes.column_scale, codes.scales[2].data)  # type: ignore[arg-type]
    assert (KINDS["bare"].block, KINDS["bare"].blocks, KINDS["bare"].column_scale) == (0, (), None)
    assert (KINDS["column scales"].block, KINDS["shared zeros alone"].block) == (0, 32)


def test_block_values_decode_as_their_format_does() -> None:
    for format in (FLOAT32, FLOAT16, E4M3, E8M0):
        level = blocks(N, 5, format=format)
        assert level.values.dtype == np.float32
        wanted = level.data.astype(np.float32) if format.kind == "float" else format.levels[level.data]
        np.testing.assert_array_equal(level.values, wanted)


@every_kind
def test_saved_codes_come_back_equal(codes: Codes, tmp_path: Path) -> None:
    io.save(tmp_path / "codes", codes)
    loaded = io.load(tmp_path / "codes", verify=True)
    assert_equal(loaded, codes)
    assert loaded.is_like(codes)
    assert loaded.max_norm == codes.max_norm


def test_a_truncated_file_of_codes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "codes"
    io.save(path, KINDS["everything"])
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(io.FormatError):
            io.load(path)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "format", "size", "message"),
    [
        (floats(5), INT8, 16, "format of block values must be one of float32, float16, e4m3, e8m0, got .*int8"),
        (floats(5), "float32", 16, "format of block values must be one of .*, got 'float32'"),
        (floats(5), FLOAT16, 16, r"float16 block values must be C-contiguous float16 .*, got float32 \(5,\)"),
        (floats(5), E4M3, 16, r"e4m3 block values must be C-contiguous uint8 .*, got float32 \(5,\)"),
        (floats(2, 3, 4), FLOAT32, 16, r"must be .* \(n, blocks\) or \(blocks,\), got float32 \(2, 3, 4\)"),
        (floats(5, 6).T, FLOAT32, 16, r"must be C-contiguous float32 .*, got float32 \(6, 5\)"),
        (floats(5), FLOAT32, 0, "size of a block must be a multiple of 16 up to 65536, or 1 .*, got 0"),
        (floats(5), FLOAT32, -16, "size of a block must be .*, got -16"),
        (floats(5), FLOAT32, 24, "size of a block must be .*, got 24"),
        (floats(5), FLOAT32, 16.0, "size of a block must be .*, got 16.0"),
        (floats(1), FLOAT32, 2**70, "size of a block must be a multiple of 16 up to 65536"),
        (floats(6, 70), FLOAT32, 1, r"size .* 1 for numbers that all rows share, got 1 with data \(6, 70\)"),
    ],
)
def test_block_values_refuse_what_a_kernel_would_misread(data: Any, format: Any, size: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockValues(data, format, size)


FITS = r"with blocks of 16 must be \(6, 5\) for 6 rows of 70 numbers, or \(5,\) for all rows, got "
ORDER = "scales must be up to two levels of blocks, .* then at most one of columns .*, got sizes "


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scales": (blocks(4),)}, r"scales\[0\] " + FITS + r"\(4,\)"),
        ({"scales": (blocks(6),)}, r"scales\[0\] " + FITS + r"\(6,\)"),
        ({"scales": (blocks(5, 5),)}, r"scales\[0\] " + FITS + r"\(5, 5\)"),
        ({"scales": (blocks(1, 5),)}, r"scales\[0\] " + FITS + r"\(1, 5\)"),
        ({"scales": (blocks(6, 4),)}, r"scales\[0\] " + FITS + r"\(6, 4\)"),
        ({"scales": (blocks(0),)}, r"scales\[0\] " + FITS + r"\(0,\)"),
        ({"scales": (blocks(5), blocks(6, 5, size=32))}, r"scales\[1\] with blocks of 32 must be \(6, 3\) for 6 rows"),
        ({"scales": (blocks(69, size=1),)}, r"scales\[0\] with blocks of 1 must be .*\(70,\) for all .*\(69,\)"),
        ({"scales": (blocks(3, size=32), blocks(5))}, ORDER + r"\[32, 16\]"),
        ({"scales": (blocks(5), blocks(5))}, ORDER + r"\[16, 16\]"),
        ({"scales": (blocks(3, size=32), blocks(2, size=48))}, ORDER + r"\[32, 48\]"),
        ({"scales": (blocks(5), blocks(3, size=32), blocks(2, size=64))}, ORDER + r"\[16, 32, 64\]"),
        ({"scales": (blocks(70, size=1), blocks(5))}, ORDER + r"\[1, 16\]"),
        ({"scales": (blocks(70, size=1), blocks(70, size=1))}, ORDER + r"\[1, 1\]"),
        ({"zero": blocks(6, 4)}, "zero " + FITS + r"\(6, 4\)"),
        ({"zero": blocks(70, size=1)}, "zero must have blocks of the finest scales' size, a multiple of 16, got 1"),
        ({"scales": (blocks(5),), "zero": blocks(3, size=32)}, "zero must have .* finest scales' size, 16, got 32"),
        ({"format": TABLE4}, "tables must be given with table4 codes"),
        ({"tables": tables(1, 16)}, "tables must not be given with int4 codes"),
        ({"format": TABLE4, "tables": tables(1, 4)}, r"tables must .*\(6, 1, 16\) or \(1, 16\) .*int8 \(1, 4\)"),
        ({"format": TABLE4, "tables": tables(16)}, r"tables must be .* got int8 \(16,\)"),
        ({"format": TABLE4, "tables": tables(5, 1, 16)}, r"tables must be .* got int8 \(5, 1, 16\)"),
        ({"format": TABLE4, "tables": tables(6, 5, 16)}, r"tables must be .* got int8 \(6, 5, 16\)"),
        (
            {"format": TABLE4, "tables": tables(6, 3, 16), "scales": (blocks(2, size=64),)},
            r"tables must be .*\(6, 2, 16\) or .* got int8 \(6, 3, 16\)",
        ),
        (  # kernels look up 64 codes at a time
            {"format": TABLE4, "tables": tables(6, 5, 16), "scales": (blocks(5),)},
            r"tables must be .*\(6, 1, 16\) or .* multiple of 64.* got int8 \(6, 5, 16\)",
        ),
        ({"format": TABLE4, "tables": floats(1, 16)}, r"tables must be C-contiguous int8 .* got float32 \(1, 16\)"),
        ({"format": TABLE4, "tables": tables(1, 32)[:, ::2]}, r"tables must be C-contiguous int8"),
        ({"format": E8M0}, "format e8m0 holds scales, not the numbers of rows"),
        ({"data": np.zeros((6, 70), np.uint8)}, r"data must be uint8 \(n, 35\) for 70 numbers in int4, .*\(6, 70\)"),
        ({"scale": floats(5)}, r"scale must be contiguous float32 \(6,\), got float32 \(5,\)"),
        ({"offset": floats(6, 1)}, r"offset must be contiguous float32 \(6,\), got float32 \(6, 1\)"),
        ({"scale": floats(12)[::2]}, r"scale must be contiguous float32 \(6,\)"),
        ({"dim": 0}, "dim must be an integer from 1 to 65536, got 0"),
        ({"dim": 70.0}, r"dim must be an integer from 1 to 65536, got 70\.0"),
        ({"max_norm": float("inf")}, "max_norm must be finite and not negative, got inf"),
    ],
)  # fmt: skip
def test_codes_refuse_parts_that_do_not_fit_and_say_what_would(fields: dict[str, Any], message: str) -> None:
    format = fields.get("format", INT4)
    data = np.zeros((N, format.row_bytes(DIM)), np.uint8)
    with pytest.raises(ValueError, match=message):
        Codes(**{"data": data, "format": format, "dim": DIM, "max_norm": 1.0, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "int4"}, "format must be a Format of qindex.formats, got 'int4'"),
        ({"scales": [blocks(5)]}, "scales must be a tuple of BlockValues, got \\["),
        ({"scales": (floats(5),)}, "scales must be a tuple of BlockValues"),
        ({"scales": None}, "scales must be a tuple of BlockValues, got None"),
        ({"zero": floats(5)}, "zero must be BlockValues, got array"),
        ({"zero": "16"}, "zero must be BlockValues, got '16'"),
    ],
)
def test_codes_refuse_parts_of_another_type(fields: dict[str, Any], message: str) -> None:
    data = np.zeros((N, NF4.row_bytes(DIM)), np.uint8)
    with pytest.raises(TypeError, match=message):
        Codes(**{"data": data, "format": NF4, "dim": DIM, "max_norm": 1.0, **fields})


# --- rows in parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"more": (part(SIGN, 20),)}, r"data must be uint8 \(n, 25\) for 50 numbers"),
        ({"more": (part(SIGN, DIM),)}, "parts of less than dim=70 numbers together"),
        ({"more": tuple(part(SIGN, 1) for _ in range(16))}, "up to 15 parts"),
        ({"more": [part(SIGN, 20)]}, "tuple of Part"),
    ],
)
def test_parts_that_do_not_fit_the_row_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        made(INT4, **fields)


def test_parts_go_with_one_block_and_with_grids_only() -> None:
    first, more = part(HALF3, 50), (part(SIGN, 20),)
    for fields, message in (
        ({"scales": (blocks(N, 5),)}, "one level of blocks, of all 70"),
        ({"scales": (blocks(1, size=80),)}, "one level of blocks, of all 70"),
        ({"zero": blocks(N, 1, size=80)}, "no zeros"),
    ):
        with pytest.raises(ValueError, match=message):
            Codes(first.data, HALF3, DIM, 1.0, more=more, **fields)
    for format in (E4M3, NF4, TABLE4):
        with pytest.raises(ValueError, match="signs, integers or half-integers"):
            Codes(part(INT8, 50).data if format == E4M3 else part(INT4, 50).data, format, DIM, 1.0, more=more)
        with pytest.raises(ValueError, match="signs, integers or half-integers"):
            Part(more[0].data, format, 20)
    with pytest.raises(ValueError, match=f"must have {N} rows"):
        Codes(first.data, HALF3, DIM, 1.0, more=(Part(more[0].data[:3], SIGN, 20),))


def test_levels_of_parts_come_one_behind_the_other() -> None:
    codes = KINDS["several parts"]
    wanted = [HALF3.decode(codes.data, 20), INT5.decode(codes.more[0].data, 40), SIGN.decode(codes.more[1].data, 10)]
    np.testing.assert_array_equal(codes.levels, np.hstack(wanted))
