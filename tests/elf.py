"""ELF files as their loader sees them: what they need, what they offer, how they lie in memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# System V ABI, gABI chapters 4 and 5, and GNU's additions.
LOAD, DYNAMIC, INTERP, NOTE, TLS = 1, 2, 3, 4, 7
STACK, RELRO = 0x6474E551, 0x6474E552
NEEDED, STRTAB, SYMTAB, RELA, RELASZ, SONAME, TEXTREL, JMPREL, PLTRELSZ = (
    1, 5, 6, 7, 8, 14, 22, 23, 2,
)  # fmt: skip
BIND_NOW, FLAGS, FLAGS_1 = 24, 30, 0x6FFFFFFB
HASH, GNU_HASH = 4, 0x6FFFFEF5
EXECUTE, WRITE, READ = 1, 2, 4
SHARED, AARCH64, X86_64 = 3, 183, 62  # values of the header


@dataclass(frozen=True)
class Segment:
    kind: int
    flags: int
    offset: int
    address: int
    file_size: int
    size: int
    align: int


@dataclass(frozen=True)
class Elf:
    """A file of 64 bits, the least byte first."""

    data: bytes

    @classmethod
    def read(cls, path: Path) -> Elf:
        elf = cls(path.read_bytes())
        assert elf.data[:6] == b"\x7fELF\x02\x01"
        return elf

    @cached_property
    def kind(self) -> int:
        return self._number(16, 2)

    @cached_property
    def machine(self) -> int:
        return self._number(18, 2)

    @cached_property
    def segments(self) -> list[Segment]:
        start, size, count = self._number(32), self._number(54, 2), self._number(56, 2)
        rows = (struct.unpack_from("<IIQQQQQQ", self.data, start + i * size) for i in range(count))
        return [Segment(kind, flags, offset, at, in_file, whole, align)
                for kind, flags, offset, at, _, in_file, whole, align in rows]  # fmt: skip

    def of(self, kind: int) -> list[Segment]:
        return [s for s in self.segments if s.kind == kind]

    @cached_property
    def dynamic(self) -> list[tuple[int, int]]:
        """The entries of the dynamic section."""
        (segment,) = self.of(DYNAMIC)
        rows = struct.iter_unpack("<QQ", self._bytes(segment))
        found = [(int(tag), int(value)) for tag, value in rows]
        return found[: [tag for tag, _ in found].index(0)]

    def entry(self, tag: int) -> int | None:
        return dict(self.dynamic).get(tag)

    @property
    def needed(self) -> list[str]:
        return [self._text(value) for tag, value in self.dynamic if tag == NEEDED]

    @property
    def soname(self) -> str | None:
        found = self.entry(SONAME)
        return None if found is None else self._text(found)

    @property
    def interpreter(self) -> str:
        (segment,) = self.of(INTERP)
        return self._bytes(segment).rstrip(b"\0").decode()

    @property
    def build_id(self) -> bytes:
        """The note that GNU's tools know a build by; b'' if there is none."""
        for segment in self.of(NOTE):
            notes = self._bytes(segment)
            while notes:
                name, size, kind = struct.unpack_from("<III", notes)
                start = 12 + -(-name // 4) * 4
                if kind == 3 and notes[12:16] == b"GNU\0":
                    return notes[start : start + size]
                notes = notes[start + -(-size // 4) * 4 :]
        return b""

    @property
    def sections(self) -> set[str]:
        """The names of all sections, of which loaders know nothing."""
        start, size = self._number(40), self._number(58, 2)
        count, names = self._number(60, 2), self._number(62, 2)
        table = self._number(start + names * size + 24)
        starts = [table + self._number(start + i * size, 4) for i in range(count)]
        return {self.data[s : self.data.index(b"\0", s)].decode() for s in starts}

    @property
    def symbols(self) -> dict[str, bool]:
        """The dynamic symbols: whether each is in this file, or has to be found elsewhere."""
        table, names = self.entry(SYMTAB), self.entry(STRTAB)
        assert table is not None and names is not None
        # Linkers write the names right after the symbols, or tables of hashes between them.
        found = {}
        for at in range(self._place(table) + 24, self._end_of_symbols(), 24):
            name, _, _, section = struct.unpack_from("<IBBH", self.data, at)
            found[self._text(name)] = section != 0
        return found

    def _end_of_symbols(self) -> int:
        """As many as the older table of hashes chains, or by the sections where it is left out."""
        start, table = self.entry(HASH), self.entry(SYMTAB)
        assert table is not None
        if start is not None:
            return self._place(table) + 24 * self._number(self._place(start) + 4, 4)
        sections, size = self._number(40), self._number(58, 2)
        for i in range(self._number(60, 2)):
            if self._number(sections + i * size + 4, 4) == 11:  # SHT_DYNSYM
                return self._place(table) + self._number(sections + i * size + 32)
        raise AssertionError("no table of dynamic symbols")

    def _text(self, offset: int) -> str:
        strings = self.entry(STRTAB)
        assert strings is not None
        start = self._place(strings) + offset
        return self.data[start : self.data.index(b"\0", start)].decode()

    def _place(self, address: int) -> int:
        """Where in the file an address is."""
        for s in self.of(LOAD):
            if s.address <= address < s.address + s.file_size:
                return address - s.address + s.offset
        raise AssertionError(f"{address:#x} is not in the file")

    def _bytes(self, segment: Segment) -> bytes:
        return self.data[segment.offset : segment.offset + segment.file_size]

    def _number(self, at: int, size: int = 8) -> int:
        return int.from_bytes(self.data[at : at + size], "little")
