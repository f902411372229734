"""`iomt contract check`, `test`, `explain`, `plot`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edge.commands.place import Commands, group
from edge.errors import ConfigurationError

if TYPE_CHECKING:
    from edge.contracts.program import Contract

EXIT_DIFFERS = 1


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    contract = group(commands, "contract", "rule files")
    for name, about, run in (
        ("check", "check rule files and say what they cost", _contract_check),
        ("test", "run the examples that rule files carry", _contract_test),
        ("explain", "say in English what rule files do", _contract_explain),
    ):
        one = contract.add_parser(name, help=about)
        one.add_argument("files", metavar="FILE", type=Path, nargs="+")
        one.set_defaults(run=run)
    one = contract.add_parser("plot", help="draw a recording, states and firings")
    one.add_argument("file", metavar="FILE", type=Path)
    one.add_argument("--readings", metavar="CSV", type=Path, required=True)
    one.add_argument("-o", "--output", metavar="PNG", type=Path, required=True)
    one.set_defaults(run=_contract_plot)


def _load(files: list[Path]) -> list[tuple[Path, str, Contract]]:
    """Each file, its text and contract; ConfigurationError with every mistake."""
    from edge.contracts.examples import read_examples  # noqa: PLC0415
    from edge.contracts.language import load  # noqa: PLC0415

    problems: list[str] = []
    found = []
    for file in files:
        try:
            text = file.read_bytes().decode()
            contract = load(text, str(file))
            read_examples(text, str(file), contract)
        except ConfigurationError as error:
            problems += error.problems
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{file}: {error}")
        else:
            found.append((file, text, contract))
    if problems:
        raise ConfigurationError(problems)
    return found


def _contract_check(options: argparse.Namespace) -> int:
    for file, _, contract in _load(options.files):
        print(
            f"{file}: {contract.name} {contract.hash.hex()[:16]}, {contract.cost} "
            f"steps a reading, {contract.state_bytes} bytes a subject"
        )
    return 0


def _contract_test(options: argparse.Namespace) -> int:
    from edge.contracts.examples import read_examples, run, shown  # noqa: PLC0415

    differs = 0
    for file, text, contract in _load(options.files):
        examples = read_examples(text, str(file), contract)
        if not examples:
            print(f"{file}: no examples")
        for example in examples:
            bad = [one for one in run(contract, example) if not one.good]
            print(f"{file}: {'differs' if bad else 'ok'}: {example.name}")
            for one in bad:
                differs += 1
                print(f"    expected: {'; '.join(map(shown, example.expected))}")
                print(f"    {one.evaluator}: {'; '.join(map(shown, one.found))}")
    return EXIT_DIFFERS if differs else 0


def _contract_explain(options: argparse.Namespace) -> int:
    from edge.contracts.explain import explain  # noqa: PLC0415

    for number, (_, _, contract) in enumerate(_load(options.files)):
        print("\n" * bool(number) + "\n".join(explain(contract)))
    return 0


def _contract_plot(options: argparse.Namespace) -> int:
    from edge.contracts.recording import run_recording  # noqa: PLC0415

    try:
        from edge.plot import draw  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            ["a plot needs matplotlib: pip install 'iomt-edge-gateway[plot]'"]
        ) from error

    [(_, _, contract)] = _load([options.file])
    try:
        result = run_recording(contract, options.readings)
    except OSError as error:
        raise ConfigurationError([f"{options.readings}: {error.strerror}"]) from error
    draw(contract, result, options.output)
    starts = sum(one.phase == "start" for one in result.firings)
    print(
        f"{options.output}: {len(result.firings)} firings, {starts} of them starts; "
        f"{result.implausible} implausible values"
    )
    return 0
