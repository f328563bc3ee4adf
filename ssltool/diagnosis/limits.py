"""At which verdict a command fails or a training stops: severities and kinds of collapse, as in ``--fail-on``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ssltool.config.fields import STATES
from ssltool.diagnosis.kinds import KINDS, NEEDS
from ssltool.errors import UsageError, unknown


def choices(start: str = "") -> list[str]:
    """The severities and kinds that begin with ``start``."""
    return [name for name in dict.fromkeys((*STATES[1:], *KINDS)) if name.startswith(start)]


@dataclass(frozen=True)
class Limit:
    """A limit: a verdict of at least a ``state``, or one that names one of the ``kinds``."""

    state: str | None = None
    kinds: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str | None, name: str) -> Limit:
        """Parses a comma-separated list of severities and kinds, the value of ``name``; None is no limit.

        ``complete`` is the severity, which the kind of this name has.

        Raises:
            UsageError: for an unknown name, or an empty list.
        """
        if text is None:
            return cls()
        given = [part.strip().replace("_", "-") for part in text.split(",") if part.strip()]
        if not given:
            raise UsageError(f"{name} '{text}' is empty; choose from {', '.join(choices())}")
        for part in given:
            if part not in choices():
                raise unknown(f"value of {name}", part, choices())
        states = [state for state in STATES if state in given]
        return cls(min(states, key=STATES.index, default=None), tuple(part for part in given if part not in STATES))

    def require(
        self, needs: Collection[str], name: str, hints: Mapping[str, str] = NEEDS, *, quick: bool = False
    ) -> None:
        """Checks that an input which has ``needs`` (keys of ``NEEDS``) can show the kinds; if ``quick``, only kinds
        whose metrics one pass gives.

        Raises:
            UsageError: for the first kind that it cannot show; it names what is missing.
        """
        for kind in self.kinds:
            if quick and not KINDS[kind].quick:
                raise UsageError(f"{name} {kind} needs saved representations: ssltool save-reprs writes them")
            if KINDS[kind].needs not in needs:
                raise UsageError(f"{name} {kind} needs {hints.get(KINDS[kind].needs, NEEDS[KINDS[kind].needs])}")

    def is_reached(self, state: str | None, kinds: Iterable[str] = ()) -> bool:
        """Whether a verdict with this ``state``, None if there is none, and these ``kinds`` is at the limit."""
        severe = None not in (state, self.state) and STATES.index(str(state)) >= STATES.index(str(self.state))
        named = {*kinds}
        for kind in [KINDS[name] for name in named]:
            named |= {*kind.implies} if kind.state == STATES[2] else set()  # equal outputs have collapsed in each way
        return severe or bool(named & {*self.kinds})
