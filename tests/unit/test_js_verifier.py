"""The second verifier (verifier/, JavaScript) and ours give one answer to all."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import ledger_files
import pytest
from aiohttp import web

from edge.ledger import verify
from edge.ledger.verify import Report, Verdict

VECTORS = Path(__file__).parents[1] / "vectors"
PROOFS = VECTORS / "proofs"
INDEX = json.loads((PROOFS / "index.json").read_text())
NODE = os.environ.get("IOMT_NODE") or shutil.which("node")
SPOILT_COUNT = int(os.environ.get("IOMT_SPOILT", "200"))  # make soak: 5,000
BROWSER = shutil.which("chromium")
CLI = Path(__file__).parents[2] / "verifier" / "cli.mjs"
GIVEN = ("vkey", "device_key")
JUDGE = Path(__file__).with_name("js_verdicts.mjs")
WORDS = {
    Verdict.OK: "OK",
    Verdict.REFUSED: "REFUSED",
    Verdict.NOT_ENOUGH: "NOT ENOUGH",
    Verdict.CANNOT_RUN: "CANNOT RUN",
}

Files = dict[str, bytes]  # by path; a proof is the one file ""


def files_of(base: Path) -> Files:
    if base.is_file():
        return {"": base.read_bytes()}
    found = (one for one in base.rglob("*") if one.is_file())
    return {one.relative_to(base).as_posix(): one.read_bytes() for one in found}


def changed(files: Files, change: Mapping[str, Any]) -> None:
    name = change["file"]
    if "remove" in change:
        del files[name]
    elif "content" in change:
        files[name] = bytes.fromhex(change["content"])
    elif "append" in change:
        files[name] += bytes.fromhex(change["append"]) * change["times"]
    elif "cut" in change:
        files[name] = files[name][: change["cut"]]
    else:
        content = bytearray(files[name])
        content[change["offset"]] ^= change["xor"]
        files[name] = bytes(content)


def case_files(case: Mapping[str, Any]) -> Files:
    files = files_of(PROOFS / case["base"])
    for change in case["changes"]:
        changed(files, change)
    return files


@dataclass(frozen=True)
class Keys:
    """What the auditor brings along."""

    vkey: str | None = None
    device: str | None = None  # 64 hex digits


def keys_of(case: Mapping[str, Any]) -> Keys:
    return Keys(
        None if case["key"] is None else INDEX["keys"][case["key"]],
        None if case["device"] is None else INDEX["device_keys"][case["device"]],
    )


def ours(files: Files, keys: Keys, directory: Path) -> Report:
    """The answer of the verifier in Python, over the files written out."""
    if "" in files:
        ledger_files.put(directory, "one.tlog-proof", files[""])
        device_key = None if keys.device is None else bytes.fromhex(keys.device)
        return verify.verify_proof(
            directory / "one.tlog-proof", keys.vkey, device_key=device_key
        )
    directory.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        ledger_files.put(directory, path, content)
    return verify.verify_directory(directory, keys.vkey)


def theirs(asked: Sequence[tuple[Files, Keys]]) -> list[dict[str, Any]]:
    """The answers of the verifier in JavaScript, from one process."""
    assert NODE is not None
    lines = []
    for files, keys in asked:
        encoded = {path: b64encode(files[path]).decode() for path in sorted(files)}
        what = {"proof": encoded[""]} if "" in files else {"files": encoded}
        lines.append(json.dumps(what | asdict(keys)))
    done = subprocess.run(
        [NODE, "--no-warnings", JUDGE],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert not done.stderr, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(asked)
    return answers


needs_node = pytest.mark.skipif(
    NODE is None, reason="no node on this machine (apt install nodejs)"
)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium on this machine (apt install chromium)"
)


# --- the vectors --------------------------------------------------------------------


def test_the_vectors_come_out_of_their_script_byte_for_byte(tmp_path: Path) -> None:
    script = VECTORS / "make_proofs.py"
    subprocess.run([sys.executable, script, tmp_path / "new"], check=True)
    assert files_of(tmp_path / "new") == files_of(PROOFS)


def test_the_vectors_are_many_and_cost_the_repository_little() -> None:
    kinds = [(case["kind"], case["verdict"] == "REFUSED") for case in INDEX["cases"]]
    for kind in ("proof", "ledger"):
        assert kinds.count((kind, False)) >= 5
        assert kinds.count((kind, True)) >= 12
    assert sum(map(len, files_of(PROOFS).values())) < 400_000
    names = [case["name"] for case in INDEX["cases"]]
    assert len(names) == len(set(names))


def test_our_verifier_says_what_the_vectors_say(tmp_path: Path) -> None:
    wrong = []
    for number, case in enumerate(INDEX["cases"]):
        report = ours(case_files(case), keys_of(case), tmp_path / str(number))
        place = "" if case["place"] is None else case["place"]
        if case["kind"] == "proof" and place:
            place = "one.tlog-proof"  # the reason names the part
        if (WORDS[report.verdict], report.place) != (case["verdict"], place):
            wrong.append((case["name"], case["reason"], report.lines()[-1]))
    assert not wrong, "\n".join(map(str, wrong))


@needs_node
def test_the_second_verifier_says_what_the_vectors_say() -> None:
    cases = INDEX["cases"]
    answers = theirs([(case_files(case), keys_of(case)) for case in cases])
    wrong = [
        (case["name"], answer)
        for case, answer in zip(cases, answers, strict=True)
        if answer != {key: case[key] for key in ("verdict", "reason", "place")}
    ]
    assert not wrong, "\n".join(map(str, wrong))


@needs_node
def test_the_second_verifier_agrees_about_the_ledger_and_its_proofs() -> None:
    """Those of tests/vectors/ledger, as far as it goes: no policy, no consistency."""
    expected = json.loads((VECTORS / "ledger" / "expected.json").read_text())
    exits = {"OK": 0, "REFUSED": 1, "NOT ENOUGH": 3}
    cases = [
        case
        for case in expected["cases"]
        if set(case["given"]) <= set(GIVEN)
        and not case["path"].endswith(".consistency")
    ]
    assert len(cases) >= 8
    asked = []
    for case in cases:
        given = [expected[one] if one in case["given"] else None for one in GIVEN]
        asked.append((files_of(VECTORS / "ledger" / case["path"]), Keys(*given)))
    answers = [exits[answer["verdict"]] for answer in theirs(asked)]
    assert answers == [case["exit"] for case in cases]


# --- chance -------------------------------------------------------------------------


def spoilt(content: bytes, chance: random.Random) -> bytes:
    """The content after one mishap: bits, bytes, a cut, a repetition, a swap."""
    if not content:
        return b"\0"
    at = chance.randrange(len(content))
    part = content[at : at + chance.choice((1, 1, 2, 16, 32, 200))]
    end = at + len(part)
    match chance.randrange(7):
        case 0 | 1:
            return content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
        case 2:
            return content[:at] + chance.randbytes(len(part)) + content[end:]
        case 3:
            return content[:at] + content[end:]
        case 4:
            return content[:at] + part + content[at:]
        case 5:
            return content[:at]
        case _:
            other = chance.randrange(len(content))
            return content[:other] + part + content[other + len(part) :]


def spoilt_extra(content: bytes, chance: random.Random) -> bytes:
    """A proof whose `extra` is spoilt below its base64, which would hide the damage."""
    first, extra, rest = content.split(b"\n", 2)
    inner = spoilt(b64decode(extra.removeprefix(b"extra ")), chance)
    return b"\n".join((first, b"extra " + b64encode(inner), rest))


def chances() -> list[tuple[Files, Keys]]:
    """Proofs and ledgers, spoilt in ways that a seed chose."""
    chance = random.Random(20)
    log, device = INDEX["keys"]["log"], INDEX["device_keys"]["monitor-7"]
    proofs = [PROOFS / f"good-{n}.tlog-proof" for n in ("enrolled", "signed", "closed")]
    ledgers = [files_of(PROOFS / f"ledger-{size}") for size in (24, 257)]
    ledgers.append(files_of(VECTORS / "ledger" / "log"))
    found: list[tuple[Files, Keys]] = []
    for number in range(SPOILT_COUNT):
        keys = Keys(chance.choice((log, log, None)))
        if number % 2:
            content = chance.choice(proofs).read_bytes()
            spoil = chance.choice((spoilt, spoilt_extra))
            keys = replace(keys, device=chance.choice((device, None)))
            found.append(({"": spoil(content, chance)}, keys))
            continue
        files = dict(chance.choice(ledgers))
        for _ in range(chance.choice((1, 1, 2))):
            name = chance.choice(sorted(files))
            files[name] = spoilt(files[name], chance)
        found.append((files, keys))
    return found


@needs_node
def test_both_verifiers_agree_about_what_chance_has_spoilt(tmp_path: Path) -> None:
    """In verdict and place, the key at hand or not."""
    asked = chances()
    verdicts: Counter[Verdict] = Counter()
    wrong = []
    for number, (one, answer) in enumerate(zip(asked, theirs(asked), strict=True)):
        files, keys = one
        report = ours(files, keys, tmp_path / str(number))
        verdicts[report.verdict] += 1
        place = answer.get("place") or ""
        if "" in files and place:
            place = "one.tlog-proof"
        if (answer.get("verdict"), place) != (WORDS[report.verdict], report.place):
            wrong.append((number, answer, report.lines()[-1]))
    assert not wrong, "\n".join(map(str, wrong))
    assert verdicts[Verdict.REFUSED] > 150
    assert verdicts[Verdict.CANNOT_RUN] == 0


# --- the command --------------------------------------------------------------------


def run_js(path: Path, *keys: str) -> tuple[int, str]:
    """The exit status and the last line."""
    command = [str(NODE), "--no-warnings", str(CLI), str(path), *keys]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()[-1]


@needs_node
@pytest.mark.parametrize(
    ("path", "given", "status", "last"),
    [
        ("ledger-24", True, 0, "verdict: OK"),
        ("ledger-24", False, 3, "verdict: NOT ENOUGH: the log's key"),
        ("history-boot-twice", True, 1, "[tile/entries/000.p/25, entry 24 (byte"),
        ("good-enrolled.tlog-proof", True, 0, "verdict: OK"),
        ("bad-path-short.tlog-proof", True, 1, "verdict: REFUSED"),
        ("no-such-file", True, 2, "CANNOT RUN"),
    ],
)
def test_the_command_exits_like_iomt_verify(
    path: str, given: bool, status: int, last: str
) -> None:
    keys = ["--vkey", INDEX["keys"]["log"]] if given else []
    ours_status = verify.main([str(PROOFS / path), *keys])
    their_status, line = run_js(PROOFS / path, *keys)
    assert (their_status, ours_status) == (status, status)
    assert last in line


@needs_node
def test_the_command_follows_no_link(tmp_path: Path) -> None:
    """What a link points to can be another thing tomorrow."""
    keys = ("--vkey", INDEX["keys"]["log"])
    log = Path(shutil.copytree(PROOFS / "ledger-24", tmp_path / "log"))
    (log / "sub").symlink_to(tmp_path)
    assert "no place for [sub]" in run_js(log, *keys)[1]
    (log / "sub").unlink()
    (log / "checkpoint").rename(tmp_path / "elsewhere")
    (log / "checkpoint").symlink_to(tmp_path / "elsewhere")
    assert "missing [checkpoint]" in run_js(log, *keys)[1]


def test_the_second_verifier_needs_nothing_from_outside() -> None:
    """No package, nothing from the network, no way to turn text into markup or code."""
    seen = set()
    for path in CLI.parent.iterdir():
        text = path.read_text()
        seen.add(path.suffix)
        if path.suffix in (".js", ".mjs"):
            imports = set(re.findall(r'(?:from|import) "([^"]+)"', text))
            assert all(one.startswith(("node:", "./")) for one in imports)
            of_node = path.name in {"cli.mjs", "webcrypto.mjs"}
            assert of_node or not any("node:" in one for one in imports)
            assert 'require("' not in text
        if path.suffix != ".md":
            for word in ("http:", "https:", "fetch(", "innerHTML", "eval(", "style="):
                assert word not in text, (path.name, word)
    assert {".js", ".mjs", ".html", ".css"} <= seen


# --- the page -----------------------------------------------------------------------


# The page at hand, not the empty one before it, and its last script has run.
READY = "String(document.readyState === 'complete' && typeof iomtWords === 'object')"


class Page:
    """The page in a headless Chromium, asked over the DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0

    async def call(self, method: str, **params: object) -> Any:
        self._number += 1
        await self._socket.send_json(
            {"id": self._number, "method": method, "params": params}
        )
        while True:
            message = await self._socket.receive_json(timeout=20)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    async def value(self, expression: str) -> str:
        found = await self.call("Runtime.evaluate", expression=expression)
        return str(found["result"].get("value"))

    async def choose(self, selector: str, path: Path) -> None:
        """Give the file (or the folder) to an input, as a person would."""
        found = await self.call(
            "Runtime.evaluate", expression=f"document.querySelector({selector!r})"
        )
        await self.call(
            "DOM.setFileInputFiles",
            objectId=found["result"]["objectId"],
            files=[str(path)],
        )

    async def paste_key(self, text: str) -> None:
        await self.value(
            f"document.querySelector('#vkey').value = {json.dumps(text)};"
            "document.querySelector('#vkey').dispatchEvent(new Event('input'))"
        )

    async def verdict(self, words: str) -> str:
        """The page's text, once the verdict has these words."""
        async with asyncio.timeout(20):
            while words not in await self.value(
                "document.querySelector('#verdict').textContent"
            ):
                await asyncio.sleep(0.05)
        return await self.value("document.querySelector('main').innerText")


@asynccontextmanager
async def browser(url: str, profile: Path) -> AsyncIterator[Page]:
    assert BROWSER is not None
    process = await asyncio.create_subprocess_exec(
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        url,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    written = profile / "DevToolsActivePort"
    try:
        async with asyncio.timeout(20):
            while not (written.exists() and "\n" in written.read_text()):
                await asyncio.sleep(0.05)
        port = written.read_text().split("\n", 1)[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                targets = await answer.json(content_type=None)
            target = next(one for one in targets if one["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"]) as socket:
                page = Page(socket)
                async with asyncio.timeout(20):
                    while await page.value(READY) != "true":
                        await asyncio.sleep(0.05)
                yield page
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[str]:
    """The directory over HTTP on the loopback, like `python3 -m http.server`."""
    application = web.Application()
    application.router.add_static("/", directory)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}/index.html"
    finally:
        await runner.cleanup()


@needs_browser
@pytest.mark.parametrize("from_disk", [False, True])
async def test_the_page_tells_the_verdict_and_the_record_in_words(
    tmp_path: Path, from_disk: bool
) -> None:
    """From a server and, for whoever has none, from the disk with a double click."""
    log = INDEX["keys"]["log"]
    async with AsyncExitStack() as stack:
        url = (CLI.parent / "index.html").as_uri()
        if not from_disk:
            url = await stack.enter_async_context(served(CLI.parent))
        page = await stack.enter_async_context(browser(url, tmp_path))
        await page.choose("#proof", PROOFS / "good-enrolled.tlog-proof")
        await page.verdict("NOT ENOUGH: the log's key")
        await page.paste_key("a wrong key")
        await page.verdict("CANNOT RUN: not a verifier key")
        await page.paste_key(log)
        text = await page.verdict("OK")
        for words in (
            "clinic.example/ward-3",
            "reading",
            "monitor-7",
            "vitals",
            "heart rate 72 /min, body temperature 36.7 °C",
            "the device signed it, checked with its key in the ledger",
            "late, our clock was not synchronised",
        ):
            assert words in text, text
        await page.choose("#proof", PROOFS / "bad-extra-record-altered.tlog-proof")
        text = await page.verdict("REFUSED: the record is not this leaf's [record]")
        assert "heart rate" not in text
        await page.choose("#folder", PROOFS / "history-boot-twice")
        await page.verdict("[tile/entries/000.p/25, entry 24 (byte")
        await page.choose("#folder", PROOFS / "ledger-24")
        assert "1 epoch start" in await page.verdict("OK")


@needs_browser
async def test_what_a_proof_says_is_text_on_the_page_and_never_markup(
    tmp_path: Path,
) -> None:
    async with browser((CLI.parent / "index.html").as_uri(), tmp_path) as page:
        await page.paste_key(INDEX["keys"]["log"])
        await page.choose("#proof", PROOFS / "good-hostile.tlog-proof")
        assert "<img src=x" in await page.verdict("OK")
        assert await page.value("document.querySelectorAll('main img').length") == "0"
        assert await page.value("document.title") == "Verify a reading"
