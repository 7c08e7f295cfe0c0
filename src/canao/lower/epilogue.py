"""The epilogue of a packed GEMM in two parts: what runs on tiles, and what needs whole rows."""

from __future__ import annotations

from dataclasses import dataclass

from canao.fuse.forms.rows import Local, Reduction, RowProgram, Slot, Stage


@dataclass(frozen=True, slots=True)
class SplitEpilogue:
    """The epilogue of a packed GEMM: `tile` runs on tiles in registers, `later` on whole rows."""

    tile: Stage
    later: tuple[Stage, ...]


def tiles_suffice(program: RowProgram) -> bool:
    """Whether register tiles can run the first stage of the epilogue. A tile sees some columns of a
    row only: so it stores one value, for the later stages, and these reduce nothing but that."""
    first, place = program.stages[0], _handed_on(program)
    stored = {x.name for x, _ in first.stores}
    values = [r.value for r in first.reductions]
    return all(slot == place for _, slot in first.stores) and all(
        (not stored and not program.narrow) or (isinstance(x, Local) and x.name in stored)
        for x in values
    )


def _handed_on(program: RowProgram) -> int:
    """The slot of what tiles store: the output row, or where that is narrow a block of rows."""
    return 1 if program.narrow else 0


def split(program: RowProgram) -> SplitEpilogue:
    """Tiles run the first stage but its reductions, which need whole rows, as all others do."""
    first = program.stages[0]
    stores = _stored(program)
    tile = Stage(first.steps, stores, ())
    if len(program.stages) == 1 and not first.reductions:
        return SplitEpilogue(tile, ())
    slots = {x.name: slot for x, slot in stores}
    reductions = []
    for r in first.reductions:
        assert isinstance(r.value, Local)
        reductions.append(
            Reduction(r.scalar, r.kind, Slot(slots[r.value.name]), r.finish, r.eps)
        )
    return SplitEpilogue(tile, (Stage((), (), tuple(reductions)), *program.stages[1:]))


def _stored(program: RowProgram) -> tuple[tuple[Local, int], ...]:
    """What the tiles store: the first stage's values, or the bare product if it has none."""
    first = program.stages[0]
    if first.stores:
        return first.stores
    values = [r.value for r in first.reductions] or [program.result]
    assert isinstance(values[0], Local)
    return ((values[0], 0),)

