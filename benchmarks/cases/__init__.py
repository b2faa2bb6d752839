"""The cases: small functions, each of which returns a result."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench, Result

#: A name and a title.
Case = tuple[str, str]
CASES: dict[str, Callable[[Bench], Result]] = {}


def case(
    name: str, title: str
) -> Callable[[Callable[[Bench, Case], Result]], Callable[[Bench], Result]]:
    """Enter a function into the list of cases.

    :param name: for the command line.
    :param title: for the table.
    """

    def enter(run: Callable[[Bench, Case], Result]) -> Callable[[Bench], Result]:
        def run_case(bench: Bench) -> Result:
            return run(bench, (name, title))

        CASES[name] = run_case
        return run_case

    return enter
