"""How the labels of tokens mark entities, which follows from the names of all labels.

A label is a letter and a type, as in B-PER: B begins an entity, I or M is inside, E or L ends it,
S, U or W is one by itself. That covers IOB1, IOB2, IOE, BIOES, BILOU and BMES. Names without a
letter, as of parts of speech, are types as they are. One label is of tokens in no entity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BEGIN, INSIDE, END, SINGLE = "begin", "inside", "end", "single"
_ROLES: Mapping[str, str] = {
    "B": BEGIN, "I": INSIDE, "M": INSIDE, "E": END, "L": END, "S": SINGLE, "U": SINGLE, "W": SINGLE,
}  # fmt: skip
# Where the letter stands. The first form that fits a set of labels counts; B-PER is by far the
# most usual, and the only one that Transformers knows.
_FORMS = (
    re.compile(r"(?P<letter>[BIMELSUW])-(?P<type>.+)"),
    re.compile(r"(?P<letter>[BIMELSUW])_(?P<type>.+)"),
    re.compile(r"(?P<type>.+)[-_](?P<letter>[BIMELSUW])"),
    re.compile(r"(?P<letter>[BIMELSUW])(?P<type>)"),
)
# What a type without a name is called.
_UNNAMED = "entity"
# Names of the label outside of all entities. Labels like LABEL_0 do not say what they mean.
_OUTSIDE = ("O", "OUT", "OUTSIDE", "NONE")
_NAMES = ((("I",), "IO"), (("B", "I"), "IOB"), (("E", "I"), "IOE"),
          (("B", "E", "I", "S"), "BIOES"), (("B", "I", "L", "U"), "BILOU"),
          (("B", "E", "M", "S"), "BMES"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scheme:
    """What each label means.

    name      as people call it; "" if labels have no letters
    roles     label -> its role and its type, for those that have a letter
    outside   labels of tokens that are in no entity
    """

    name: str
    roles: Mapping[str, tuple[str, str]]
    outside: frozenset[str]

    def type_of(self, label: str) -> str:
        """A label without its letter."""
        return self.roles[label][1] if label in self.roles else label

    def continues(self, before: str, label: str) -> bool:
        """Whether a token goes on with the entity of the token before it.

        As scorers of such labels (conlleval, seqeval) read a sequence that breaks its own rules: an
        entity begins wherever nothing goes on.
        """
        if self.type_of(before) != self.type_of(label) or label in self.outside:
            return label == before and label in self.outside
        role, last = (self.roles.get(name, (INSIDE, ""))[0] for name in (label, before))
        return role in (INSIDE, END) and last in (BEGIN, INSIDE)

    def __str__(self) -> str:
        what = self.name or "no scheme, tokens of equal labels are joined"
        none = ", ".join(sorted(self.outside))
        return f"{what}; outside: {none or 'no label, every token is in an entity'}"


def scheme_of(labels: Sequence[str]) -> Scheme:
    """The scheme of a model's labels."""
    for form in _FORMS:
        roles, letters = _read(form, labels)
        rest = [name for name in labels if name not in roles]
        if not roles or (form is not _FORMS[0] and len(rest) > 1):
            continue
        # Letters other than B and I mean something only beside those.
        if letters <= {"B", "I"} or (letters & {"B", "I", "M"} and len(letters) > 1):
            name = next((n for found, n in _NAMES if letters <= set(found)), "BIOES, BILOU or BMES")
            return Scheme(name, roles, _outside(rest, alone=len(letters) > 1 or "I" in letters))
    return Scheme("", {}, _outside(labels, alone=False))


def outside_of(labels: Sequence[str]) -> str:
    """The label of what is in no entity; the first one where the scheme has none."""
    return next(iter(sorted(scheme_of(labels).outside)), labels[0])


def _read(
    form: re.Pattern[str], labels: Sequence[str]
) -> tuple[dict[str, tuple[str, str]], set[str]]:
    """The labels of a form with role and type, and their letters."""
    roles, letters = {}, set()
    for name in labels:
        found = form.fullmatch(name)
        if found:
            letters.add(found["letter"])
            roles[name] = (_ROLES[found["letter"]], found["type"] or _UNNAMED)
    return roles, letters


def _outside(names: Sequence[str], *, alone: bool) -> frozenset[str]:
    """The label outside of entities: O, or one of a like name; or the only one without a letter
    where all others have one."""
    if "O" in names:
        return frozenset("O")
    found = [name for name in names if name.upper() in _OUTSIDE]
    if not found and alone and len(names) == 1:
        found = list(names)
    return frozenset(found[:1])
