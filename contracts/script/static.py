"""What script/static runs: halmos on the checked-in code and on broken copies, and slither against docs/contract-proofs.md.

Refuses a proof that halmos calls passed but did not finish: one with a loop cut short, with no path that ends, or that is not there.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

CONTRACTS = pathlib.Path(__file__).resolve().parent.parent
PAGE = CONTRACTS.parent / "docs" / "contract-proofs.md"
HALMOS = [
    "halmos", "--root", ".", "--forge-build-out", "out/symbolic", "--panic-error-codes", "*", "--loop", "100", "--no-status",
    "--solver", "yices", "--solver-threads", "1", "--solver-timeout-assertion", "600s",
]
COUNTEREXAMPLE = 1

# name: (proof that must fail, file, what is written there, what stands there instead). Each text must stand there exactly once.
BREAKAGES = {
    "anybody-writes": (
        "check_append_takes_exactly_what_the_table_says", "Registry.sol",
        "return writers & actors[realm][actor] != 0;", "return writers != 0 || actors[realm][actor] != 0;",
    ),
    "issuers-countersign": (
        "check_append_takes_exactly_what_the_table_says", "Registry.sol",
        "uint256(Roles.WATCHDOG) << 80", "uint256(Roles.WATCHDOG | Roles.ISSUER) << 80",
    ),
    "any-period": (
        "check_append_takes_exactly_what_the_table_says", "Registry.sol",
        "PERIODS_AHEAD = 13", "PERIODS_AHEAD = 14",
    ),
    "any-encoding-of-a-member": (
        "check_append_takes_exactly_what_the_table_says", "Registry.sol",
        "if (data.length != MEMBER_SET_SIZE || data[0] != 0) revert", "if (data.length != MEMBER_SET_SIZE) revert",
    ),
    "head-forgets-the-slot-before": (
        "check_append_changes_one_slot_and_at_most_one_member_bit", "Registry.sol",
        "abi.encode(slot, realm, shard, actor, meta, dataHash)", "abi.encode(realm, shard, actor, meta, dataHash)",
    ),
    "one-genesis-for-all-realms": (
        "check_append_changes_one_slot_and_at_most_one_member_bit", "Registry.sol",
        'abi.encode("countersign.head.v1", block.chainid, address(this), realm, shard)',
        'abi.encode("countersign.head.v1", block.chainid, address(this), shard)',
    ),
    "last-block-of-16-bits": (
        "check_append_changes_one_slot_and_at_most_one_member_bit", "Registry.sol",
        "| uint32(block.number)", "| uint16(block.number)",
    ),
    "member-set-gives-admin": (
        "check_append_changes_one_slot_and_at_most_one_member_bit", "Registry.sol",
        "member == 1 ? record | Roles.MEMBER", "member == 1 ? record | Roles.MEMBER | Roles.ADMIN",
    ),
    "nonce-not-counted": (
        "check_a_nonce_is_taken_once", "Registry.sol",
        "records[actor] = record + (1 << 64);", "records[actor] = record;",
    ),
    "any-nonce": (
        "check_a_signed_entry_is_by_a_key_of_secp256k1", "Registry.sol",
        "if (nonce != record >> 64) revert", "if (nonce < record >> 64) revert",
    ),
    "any-deadline": (
        "check_a_signed_entry_is_by_a_key_of_secp256k1", "Registry.sol",
        "if (block.timestamp > deadline) revert", "if (deadline == 0) revert",
    ),
    "high-s": (
        "check_a_signed_entry_is_by_a_key_of_secp256k1", "Registry.sol",
        "if (uint256(s) > HALF_ORDER) return false;", "",
    ),
    "realm-not-signed": (
        "check_a_signed_entry_is_by_a_key_of_secp256k1", "Registry.sol",
        "abi.encode(APPEND_TYPEHASH, actor, realm, shard,", "abi.encode(APPEND_TYPEHASH, actor, shard,",
    ),
    "any-p256-key": (
        "check_a_signed_entry_is_by_a_key_of_p256", "Registry.sol",
        "if (P256.names(signature, signer)) {", "if (signature.length == 128) {",
    ),
    "p256-high-s": (
        "check_a_signed_entry_is_by_a_key_of_p256", "P256.sol",
        "if (uint256(bytes32(signature[32:64])) > HALF_ORDER) return false;", "",
    ),
    "any-answer-of-the-precompile": (
        "check_a_signed_entry_is_by_a_key_of_p256", "P256.sol",
        "result.length == 32 && abi.decode(result, (uint256)) == 1;", "result.length != 31;",
    ),
    "a-wallet-that-says-no": (
        "check_an_entry_signed_in_another_form_is_by_a_wallet", "Registry.sol",
        " && abi.decode(result, (bytes32)) == bytes32(ERC1271_MAGIC)", "",
    ),
    "deadline-not-signed": (
        "check_an_entry_signed_in_another_form_is_by_a_wallet", "Registry.sol",
        "kind, dataHash, nonce, deadline)", "kind, dataHash, nonce)",
    ),
    "signed-by-one-written-by-another": (
        "check_a_signed_entry_changes_one_slot_and_the_nonce", "Registry.sol",
        "bytes32 dataHash = _append(realm, actor, 0, shard, kind, data);",
        "bytes32 dataHash = _append(realm, msg.sender, 0, shard, kind, data);",
    ),
    "only-the-first-is-signed": (
        "check_entries_signed_together_are_in_one_digest", "Registry.sol",
        "return keccak256(abi.encodePacked(hashes));", "return keccak256(abi.encodePacked(hashes[0]));",
    ),
    "the-first-of-many-left-out": (
        "check_the_second_of_two_entries_is_by_the_roles_that_the_first_left", "Registry.sol",
        "for (uint256 i = 0; i < writes.length; ++i) {", "for (uint256 i = 1; i < writes.length; ++i) {",
    ),
    "the-first-of-many-twice": (
        "check_two_entries_in_a_call_change_what_each_would", "Registry.sol",
        "Write calldata write = writes[i];\n            _append(", "Write calldata write = writes[0];\n            _append(",
    ),
    "any-root-set": (
        "check_a_threshold_of_the_roots_in_force_signed_it", "Registry.sol",
        "if (given != expected) revert", "if (given == 0) revert",
    ),
    "a-root-counts-twice": (
        "check_a_threshold_of_the_roots_in_force_signed_it", "Registry.sol",
        "seen |= bit;", "",
    ),
    "no-threshold": (
        "check_one_signature_is_no_threshold_of_two", "Registry.sol",
        "if (count < threshold) revert", "if (count + threshold == 0) revert",
    ),
    "roots-write-batches": (
        "check_roots_write_exactly_what_the_table_says", "Registry.sol",
        "return class <= CLASS_REVOCATION;", "return class <= CLASS_REVOCATION + 1;",
    ),
    "only-the-last-is-signed": (
        "check_two_entries_by_roots_are_signed_together_and_change_what_each_would", "Registry.sol",
        "hashes[i] = keccak256", "hashes[0] = keccak256",
    ),
    "root-nonce-not-counted": (
        "check_an_entry_by_roots_changes_one_slot_one_record_and_the_nonce", "Registry.sol",
        "rootSet[realm] = keccak256(abi.encode(nonce + 1, threshold, roots));",
        "rootSet[realm] = keccak256(abi.encode(nonce, threshold, roots));",
    ),
    "role-set-forgets-the-nonce": (
        "check_an_entry_by_roots_changes_one_slot_one_record_and_the_nonce", "Registry.sol",
        "records[actor] = ((records[actor] >> 64) << 64) | roles;", "records[actor] = roles;",
    ),
    "any-root-nonce": (
        "check_only_the_stored_root_nonce_is_taken", "Registry.sol",
        "bytes32 given = keccak256(abi.encode(nonce, threshold, roots));\n            if (given != expected)",
        "bytes32 given = keccak256(abi.encode(nonce, threshold, roots));\n            if (given == 0)",
    ),
    "a-root-twice-in-the-set": (
        "check_a_new_root_set_is_well_formed_and_counts_from_the_next_nonce", "Registry.sol",
        "if (set.roots[j] == root) revert WrongRoot(root);", "",
    ),
    "threshold-above-the-roots": (
        "check_a_new_root_set_is_well_formed_and_counts_from_the_next_nonce", "Registry.sol",
        "set.threshold > count || ", "",
    ),
}
# What --all widens: every size at which something changes.
WIDER = {
    "check_append_takes_exactly_what_the_table_says": [
        "--default-bytes-lengths", "0,1,24,25,26,33,61,69,70,71,1024,1025,4096,4097,24569,24576,24577",
    ],
}
# Those that ./run-tests looks at: one of the table, one of replay.
QUICK_BREAKAGES = ["anybody-writes", "nonce-not-counted"]


class Refused(Exception):
    """A proof, a breakage or a finding that is not as it must be."""


def run(command, directory, profile="symbolic"):
    environment = {**os.environ, "FOUNDRY_PROFILE": profile}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)


def lay_out(directory, artifact):
    """What halmos needs, in a directory of its own: sources, proofs, and the code of the artefact."""
    for name in ("foundry.toml", "src", "symbolic", "script"):
        source = CONTRACTS / name
        if not (directory / name).exists():
            (shutil.copytree if source.is_dir() else shutil.copy)(source, directory / name)
    out = directory / "out" / "symbolic"
    out.mkdir(parents=True, exist_ok=True)
    code = json.loads(artifact)["deployedBytecode"]
    (out / "code.json").write_text(json.dumps({"bytecode": {"object": code}}))


def build(directory):
    # By force: halmos would skip what a build without --ast left there.
    built = run(["forge", "build", "--force", "--ast", "--extra-output", "storageLayout", "metadata"], directory)
    if built.returncode != 0:
        raise Refused(f"the proofs do not compile\n{built.stdout}{built.stderr}")


def proofs():
    """(contract, proof, whether it is left to --all), as they stand in symbolic/*.t.sol."""
    found = []
    for path in sorted((CONTRACTS / "symbolic").glob("*.t.sol")):
        text = path.read_text()
        contract = re.search(r"^contract (\w+) ", text, re.M).group(1)
        if re.search(r"@custom:slow *\n", text):
            raise Refused(f"{path.name}: @custom:slow takes a word: without one the compiler gives it the next line, halmos' bounds")
        for slow, name in re.findall(r"(/// @custom:slow[^\n]*\n(?:    ///[^\n]*\n)*)?    function (check_\w+)", text):
            found.append((contract, name, bool(slow)))
    if not found:
        raise Refused("no proofs in symbolic/")
    return found


def halmos(directory, contract, proof, extra=()):
    """The one result, and what halmos said."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        done = run([*HALMOS, "--contract", contract, "--match-test", f"^{proof}\\(", "--json-output", report.name, *extra], directory)
        said = done.stdout + done.stderr
        try:
            results = [one for each in json.load(open(report.name))["test_results"].values() for one in each]
        except (ValueError, KeyError):
            raise Refused(f"{proof}: halmos gave no result\n{said}") from None
    if [one["name"].split("(")[0] for one in results] != [proof]:
        raise Refused(f"{proof}: halmos ran {[one['name'] for one in results]}\n{said}")
    return results[0], said


def prove(directory, contract, proof, extra=()):
    began = time.monotonic()
    result, said = halmos(directory, contract, proof, extra)
    if result["exitcode"] != 0 or result["num_bounded_loops"] != 0 or "WARNING" in said:
        raise Refused(f"{proof}: not proved\n{said}")
    return f"proved  {proof} ({time.monotonic() - began:.0f} s)"


def break_and_find(name):
    """Compiles the contract with one thing wrong in it; its proof must find a counterexample."""
    proof, file, there, instead = BREAKAGES[name]
    contract = next((contract for contract, known, _ in proofs() if known == proof), None)
    if contract is None:
        raise Refused(f"{name}: no proof {proof}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        directory = pathlib.Path(made)
        shutil.copytree(CONTRACTS / "src", directory / "src")
        shutil.copytree(CONTRACTS / "script", directory / "script")
        source = directory / "src" / file
        text = source.read_text()
        if text.count(there) != 1:
            raise Refused(f"{name}: {file} holds {text.count(there)} times, expected once: {there}")
        source.write_text(text.replace(there, instead))
        artifact = subprocess.run([directory / "script" / "artifact"], capture_output=True, text=True)
        if artifact.returncode != 0:
            raise Refused(f"{name}: does not compile\n{artifact.stderr}")
        lay_out(directory, artifact.stdout)
        for built in ("out/symbolic", "cache/symbolic"):
            shutil.copytree(CONTRACTS / built, directory / built, dirs_exist_ok=True, ignore=shutil.ignore_patterns("code.json"))
        result, said = halmos(directory, contract, proof, ["--early-exit"])
        if result["exitcode"] != COUNTEREXAMPLE or result["num_models"] == 0:
            raise Refused(f"{name}: {proof} finds nothing wrong\n{said}")
    return f"found   {name}, by {proof} ({time.monotonic() - began:.0f} s)"


def compile_for_slither():
    """Half a minute: once for each state of the sources."""
    out = CONTRACTS / "out" / "slither"
    hashed = hashlib.sha256()
    for path in [CONTRACTS / "foundry.toml", *sorted((CONTRACTS / "src").glob("*.sol"))]:
        hashed.update(path.read_bytes())
    stamp = out / "compiled"
    if stamp.exists() and stamp.read_text() == hashed.hexdigest():
        return
    shutil.rmtree(out, ignore_errors=True)
    built = run(["forge", "build", "--build-info", "--build-info-path", "out/slither/build-info", "--out", "out/slither",
                 "--cache-path", "cache/slither", "--force", "src/Registry.sol"], CONTRACTS, "default")
    if built.returncode != 0:
        raise Refused(f"slither: the contract does not compile\n{built.stdout}{built.stderr}")
    stamp.write_text(hashed.hexdigest())


def slither():
    """Compares findings with the page's table: | `detector` | impact | `where` | why |."""
    compile_for_slither()

    def findings(*extra):
        done = run(["slither", ".", "--ignore-compile", "--foundry-out-directory", "out/slither", "--config-file", "slither.config.json",
                    "--json", "-", *extra], CONTRACTS, "default")
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = {"success": False}
        if not answer["success"]:
            raise Refused(f"slither failed\n{done.stdout}{done.stderr}")
        rows = []
        for each in answer["results"].get("detectors", []):
            elements = each["elements"]
            inside = elements[0]
            rows.append((each["check"], each["impact"], inside["name"]))
        return sorted(rows)

    reported, silenced = findings(), findings("--show-ignored-findings")
    above = [row for row in reported if row[1] not in ("Informational", "Optimization")]
    if above:
        raise Refused(f"slither: findings above informational: {above}")
    known = sorted(re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \| `(\w+)` \|", PAGE.read_text(), re.M))
    if known != silenced:
        new, gone = [row for row in silenced if row not in known], [row for row in known if row not in silenced]
        raise Refused(f"slither: not explained in docs/contract-proofs.md: {new}; explained there and not found (any more): {gone}; "
                      f"or not as often: {len(silenced)} found, {len(known)} explained")
    return f"slither: {len(silenced)} findings, all explained; none above informational but the {len(silenced) - len(reported)} silenced in the source"


def main(arguments):
    mode, names = (arguments[0], arguments[1:]) if arguments else ("", [])
    if mode not in ("", "--all", "--broken", "--slither") or (names and mode != "--broken"):
        print("usage: script/static [--all | --broken [NAME…] | --slither]", file=sys.stderr)
        return 2
    if unknown := [name for name in names if name not in BREAKAGES]:
        print(f"no breakage {unknown[0]}; there are: {' '.join(BREAKAGES)}", file=sys.stderr)
        return 2
    named, there = set(re.findall(r"^\| `(check_\w+)` \|", PAGE.read_text(), re.M)), {name for _, name, _ in proofs()}
    if named != there:
        print(f"docs/contract-proofs.md: {sorted(named ^ there)} stand in the page or in symbolic/ only", file=sys.stderr)
        return 1
    if unbroken := there - {proof for proof, *_ in BREAKAGES.values()}:
        print(f"no breakage for {sorted(unbroken)}", file=sys.stderr)
        return 1
    jobs = []
    if mode != "--broken":
        jobs.append((slither,))
    if mode != "--slither":
        build(CONTRACTS)
        lay_out(CONTRACTS, (CONTRACTS / "artifact" / "Registry.json").read_text())
        if mode != "--broken":
            jobs += [(prove, CONTRACTS, contract, name) for contract, name, slow in proofs() if mode == "--all" or not slow]
            if mode == "--all":
                jobs += [(prove, CONTRACTS, contract, name, WIDER[name]) for contract, name, _ in proofs() if name in WIDER]
        jobs += [(break_and_find, name) for name in names or (QUICK_BREAKAGES if mode == "" else BREAKAGES)]
    failed = 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        for job in [pool.submit(*job) for job in jobs]:
            try:
                print(job.result(), flush=True)
            except Refused as refused:
                failed += 1
                print(refused, file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
