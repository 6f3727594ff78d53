"""slither-mutate with another way to judge a mutant (script/mutate runs this, in a copy of the project).

slither-mutate compiles each mutant twice, in new processes, and then compiles what depends on it. Here a compiler that stays makes its
code, and the tests, compiled once, are run on that code: they deploy the contract from forge's artefact (`dynamic_test_linking`).
Mutants that compile to the code of the contract itself are none; those with the code of an earlier one share its verdict.

Besides slither-mutate's arguments: --lines 10-20,30-30 leaves out the mutants elsewhere. Refuses a campaign in which slither reports
an error: it goes on without the mutator that failed.
"""

import json
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

from slither.tools.mutator import __main__ as tool
from slither.tools.mutator.mutators import abstract_mutator

logger = logging.getLogger("Slither-Mutate")
UNCAUGHT, CAUGHT, NOT_COMPILED = 0, 1, 2
# What the tests of one mutant may take; a loop that has no end takes more. Of the processor, so that a busy machine catches nothing.
SECONDS = 300

COMPILER = """
const solc = require(process.argv[1]);
require("node:readline")
  .createInterface({ input: process.stdin })
  .on("line", (input) => process.stdout.write(solc.compile(input) + "\\n"));
"""


class Compiler:
    """The code of the contract when one of its files holds something else."""

    def __init__(self, solc: str) -> None:
        settings = json.loads(subprocess.check_output(["forge", "config", "--json"]))
        self.sources = {str(path): path.read_text() for path in Path("src").glob("*.sol")}
        self.settings = {
            "optimizer": {"enabled": settings["optimizer"]},
            "viaIR": settings["via_ir"],
            "evmVersion": settings["evm_version"],
            "metadata": {"bytecodeHash": "none", "appendCBOR": False},
            "outputSelection": {
                "src/Registry.sol": {"Registry": ["evm.bytecode.object", "evm.deployedBytecode.object"]}
            },
        }
        self.process = subprocess.Popen(
            ["node", "-e", COMPILER, solc], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def code(self, file: str, content: str) -> tuple[str, str] | None:
        sources = {**self.sources, file: content}
        request = {
            "language": "Solidity",
            "sources": {name: {"content": text} for name, text in sources.items()},
            "settings": self.settings,
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if any(error["severity"] == "error" for error in answer.get("errors", [])):
            return None
        evm = answer["contracts"]["src/Registry.sol"]["Registry"]["evm"]
        return evm["bytecode"]["object"], evm["deployedBytecode"]["object"]


def limit_processor_time() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


class Errors(logging.Handler):
    """Counts what slither logs as errors, and goes on after."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


class Judge:
    def __init__(self, lines: list[tuple[int, int]]) -> None:
        self.lines = lines
        self.compiler = Compiler(os.environ["COUNTERSIGN_TOOLS"] + "/node_modules/solc")
        # Folders of its own: slither has the contract compiled too.
        self.environment = {**os.environ, "FOUNDRY_OUT": "judged", "FOUNDRY_CACHE_PATH": "judged/cache"}
        subprocess.run(["forge", "build"], env=self.environment, check=True, capture_output=True)
        self.artefact = Path("judged/Registry.sol/Registry.json")
        self.built = json.loads(self.artefact.read_text())
        self.original = self.compiler.code("src/Registry.sol", self.compiler.sources["src/Registry.sol"])
        self.excluded = "ArtifactTest|GasTest|TraceTest|VectorsTest"
        self.verdicts: dict[tuple[str, str], int] = {}
        self.counts = {"caught": 0, "uncaught": 0, "same code": 0, "not compiled": 0}
        assert self.tests("5f5ff3", "00") == CAUGHT, "the tests must fail on a contract without code"
        assert self.tests(*self.original) == UNCAUGHT, "the tests must pass on the contract itself"

    def tests(self, creation: str, runtime: str) -> int:
        self.built["bytecode"]["object"] = "0x" + creation
        self.built["deployedBytecode"]["object"] = "0x" + runtime
        self.artefact.write_text(json.dumps(self.built))
        # The campaigns of the invariants take longest: only what all others let pass comes to them.
        for suites in ("--no-match-contract", "--match-contract"):
            pattern = "InvariantsTest" if suites == "--match-contract" else "InvariantsTest|" + self.excluded
            command = ["forge", "test", "--fail-fast", "--threads", "1", suites, pattern]
            run = subprocess.run(
                command, env=self.environment, capture_output=True, preexec_fn=limit_processor_time, check=False
            )
            if run.returncode != 0:
                return CAUGHT
        return UNCAUGHT

    def __call__(self, output_folder, file, patch, command, generator, timeout, mappings, verbose) -> int:
        if self.lines and not any(first <= patch["line_number"] <= last for first, last in self.lines):
            return NOT_COMPILED
        path = str(Path(file).relative_to(Path.cwd()))
        content = self.compiler.sources[path].encode()
        mutant = content[: patch["start"]] + patch["new_string"].encode() + content[patch["end"] :]
        code = self.compiler.code(path, mutant.decode())
        if code is None or code == self.original:
            verdict, word = NOT_COMPILED, "not compiled" if code is None else "same code"
        else:
            if code not in self.verdicts:
                self.verdicts[code] = self.tests(*code)
            verdict = self.verdicts[code]
            word = "caught" if verdict == CAUGHT else "uncaught"
        self.counts[word] += 1
        if word in ("caught", "uncaught"):
            change = f"{patch['old_string']!r} -> {patch['new_string']!r}"
            print(f"{word}: {path}:{patch['line_number']} [{generator}] {change}", flush=True)
        return verdict


def ranges(text: str) -> list[tuple[int, int]]:
    pairs = [part.split("-") for part in text.split(",")]
    return [(int(first), int(last)) for first, last in pairs]


if __name__ == "__main__":
    wanted = []
    if "--lines" in sys.argv:
        at = sys.argv.index("--lines")
        wanted = ranges(sys.argv[at + 1])
        del sys.argv[at : at + 2]
    judge = Judge(wanted)
    errors = Errors()
    logger.addHandler(errors)
    abstract_mutator.test_patch = judge
    # The tests as such were run above.
    tool.run_test_cmd = lambda *_: True
    tool.main()
    assert judge.tests(*judge.original) == UNCAUGHT, "the tests fail on the contract itself by now: no verdict counts"
    print(f"mutants: {judge.counts}, of different code: {len(judge.verdicts)}", flush=True)
    if errors.count > 0:
        sys.exit("slither-mutate reported errors: the campaign is not whole")
    sys.exit(0 if sum(judge.counts.values()) > 0 else "no mutants there")
