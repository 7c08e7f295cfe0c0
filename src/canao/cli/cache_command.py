"""`canao cache`: where the build cache is, what is in it, and making it smaller."""

from __future__ import annotations

from typing import Any

from canao.cache.prune import Usage, clear, prune, usage
from canao.cli.printing import mb
from canao.errors import InputError, ToolchainError


def manage_cache(prune_it: bool, clear_it: bool, max_bytes: int | None) -> tuple[Usage, int]:
    """The cache after what was asked for, and the bytes that were freed.

    InputError if the options do not go together, ToolchainError if the cache cannot be used.
    """
    if prune_it and clear_it:
        raise InputError("--prune and --clear are both given; --clear removes all that is unused")
    if max_bytes is not None and not prune_it:
        raise InputError("--max-size is the size for --prune; give both")
    try:
        freed = clear() if clear_it else prune(max_bytes) if prune_it else 0
        return usage(), freed
    except OSError as error:
        raise ToolchainError(
            f"{error.filename}: the cache cannot be read or written ({error.strerror}); name a "
            "directory of your own in CANAO_CACHE"
        ) from None


def cache_form(found: Usage, freed: int) -> dict[str, Any]:
    """What is printed for programs."""
    return {
        "place": str(found.place),
        "bytes": found.bytes,
        "limit": found.limit,
        "entries": len(found.entries),
        "in_use": sum(entry.in_use for entry in found.entries),
        "toolchain_bytes": found.toolchain_bytes,
        "tuning_bytes": found.tuning_bytes,
        "freed_bytes": freed,
    }


def format_cache(found: Usage, freed: int) -> str:
    """What is printed for people."""
    used = sum(entry.in_use for entry in found.entries)
    builds = sum(entry.bytes for entry in found.entries)
    lines = [
        f"place      {found.place}",
        f"size       {mb(found.bytes)} of at most {mb(found.limit)} (CANAO_CACHE_MAX)",
        f"builds     {len(found.entries)}, {mb(builds)}" + (f", {used} in use" if used else ""),
        f"toolchain  {mb(found.toolchain_bytes)}, its own libraries for each target",
        f"tuning     {mb(found.tuning_bytes)}, what `canao tune` measured; never pruned",
    ]
    if freed:
        lines.append(f"freed      {mb(freed)}")
    return "\n".join(lines) + "\n"
