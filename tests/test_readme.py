"""README.md cannot lie: its commands are run, its files are loaded, its tables are held against the code."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from tests import forked
from tests.generated_docs import README, with_tables

from subscription_mcp.auth.keys import VerificationKey
from subscription_mcp.auth.tokens import TokenVerifier
from subscription_mcp.catalogs import load_catalog, shipped_names
from subscription_mcp.cli import main as cli
from subscription_mcp.domain.errors import HTTP_STATUS
from subscription_mcp.domain.windows import WINDOW_NAMES
from subscription_mcp.settings import ClaimNames, Settings, load_settings

ROOT = README.parent
TEXT = README.read_text("utf-8")
PORT = "8765"
CONSOLE_SCRIPT = "subscription-mcp"
SECONDS_MAX = 120


# --- What stands in it -------------------------------------------------------------------------------------


@dataclass
class Block:
    """A fenced block: its language, its lines, and where it begins."""

    language: str
    text: str
    line: int

    @property
    def name(self) -> str:
        """The file a block says it is, in a comment on its first line."""
        return self.text.split("\n", 1)[0].removeprefix("# ")


def blocks(*languages: str) -> list[Block]:
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    made = [Block(match[1], match[2], TEXT[: match.start()].count("\n") + 1) for match in found]
    return [block for block in made if block.language in languages] if languages else made


def table(first_cell: str) -> list[list[str]]:
    """The rows of the table whose head begins with this cell."""
    begin = TEXT.index(f"\n| {first_cell} |") + 1
    rows = TEXT[begin : TEXT.index("\n\n", begin)].split("\n")[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_it_begins_with_what_it_is_for_and_the_two_commands() -> None:
    title, sentence, commands = TEXT.split("\n\n")[:3]
    assert title == "# subscription-mcp" and sentence.count(". ") == 0 and "```" not in sentence
    assert [line.split("#")[0].strip() for line in commands.split("\n")[1:-1]] == [
        "python3 dev.py demo",
        "python3 dev.py test",
    ]


def test_every_block_says_its_language() -> None:
    known = {
        "bash",
        "console",
        "json",
        "python",
        "toml",
    }  # tests/integration/test_webhooks.py runs the Python
    assert not [
        f"README.md:{block.line} {block.language}" for block in blocks() if block.language not in known
    ]


# --- The commands ------------------------------------------------------------------------------------------


@dataclass
class Step:
    """One command, what it should print (None: anything) and where it stands."""

    command: str
    expected: str | None
    line: int


def steps() -> list[Step | Block]:
    """Every command, and every file to be written, in order. In a console block `$ ` begins a command, `> ` goes
    on with it, and the rest is what it prints; in a bash block every line is a command."""
    found: list[Any] = []
    for block in blocks("bash", "console", "toml"):
        if block.language == "toml":
            found.append(block)
            continue
        for number, line in enumerate(block.text.splitlines(), block.line + 1):
            if block.language == "bash":
                found.append(Step(re.sub(r"\s+# .*", "", line), None, number))
            elif line.startswith("$ "):
                found.append(Step(line[2:], "", number))
            elif line.startswith("> "):
                found[-1].command += "\n" + line[2:]
            else:
                found[-1].expected = f"{found[-1].expected}{line}\n"
    return found


def as_pattern(expected: str) -> str:
    """What is shown, as a pattern: `…` is anything, and any day is as good as the one shown."""
    dates = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    pattern = re.escape(re.sub(dates, "DATE", expected.strip()))
    return pattern.replace("DATE", dates).replace("…", ".*?")


def dev() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def what_dev_would_run(command: str, *arguments: str) -> list[str]:
    """The program and arguments that `dev.py COMMAND` becomes once its environment is there."""
    module = dev()
    became: list[Any] = []
    module.set_up = lambda: None
    module.hand_over = lambda program, *words, cwd=None: became.extend([program, *words])
    module.COMMANDS[command](list(arguments))
    return [str(word) for word in became]


def test_dev_test_runs_the_tests() -> None:
    words = what_dev_would_run("test", "-k", "word")[1:]
    assert words[:2] == ["-m", "pytest"] and words[-2:] == ["-k", "word"]


def test_dev_run_runs_the_command() -> None:
    assert what_dev_would_run("run", "--", "doctor")[1:] == ["doctor"]


def test_dev_bench_runs_the_benchmarks() -> None:
    assert what_dev_would_run("bench", "mcp", "--rounds", "3")[1:] == [
        "-m",
        "benchmarks",
        "mcp",
        "--rounds",
        "3",
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a checkout with its environment: the examples, and `.venv/bin`."""
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("examples", "mcp.json"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, words in (("python", ""), (CONSOLE_SCRIPT, "-m subscription_mcp ")):
        (binaries / name).write_text(f'#!/bin/sh\nexec "{forked.python()}" {words}"$@"\n')
        (binaries / name).chmod(0o755)
    return tmp_path


def write(block: Block, folder: Path) -> None:
    """Put a file where it says it is, as its reader does."""
    path = folder / block.name
    path.parent.mkdir(exist_ok=True)
    path.write_text(block.text, "utf-8")


def environment(home: Path) -> dict[str, str]:
    """Nothing of the person who runs the tests: no settings, no data, no configuration."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("SUBSCRIPTION_MCP_")
    }
    folders = {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("DATA", "CONFIG", "CACHE", "STATE")}
    made = {**inherited, **folders, "HOME": str(home), "PYTHONUTF8": "1"}
    if "PYTHONPATH" in made:  # the commands run in another folder
        made["PYTHONPATH"] = os.pathsep.join(
            str(Path(entry).resolve()) for entry in made["PYTHONPATH"].split(os.pathsep)
        )
    return made


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


class Shell:
    """One bash for all blocks, as a person has one terminal; and a second one, where servers run."""

    MARK = "=== that was it:"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )

    def run(self, command: str) -> tuple[int, str]:
        """Exit code and output of a command."""
        assert self._process.stdin is not None and self._process.stdout is not None
        # Whatever reads from stdin must not eat the commands that follow.
        self._process.stdin.write(f'{{ {command}\n}} < /dev/null\necho "{self.MARK} $?"\n')
        self._process.stdin.flush()
        output = ""
        for line in self._process.stdout:
            before, mark, code = line.partition(self.MARK)
            output += before
            if mark:
                return int(code), output
        raise AssertionError(f"the shell ended: {output}")

    def serve(self, command: str) -> tuple[int, str]:
        """Start a server on our port in place of the one that runs, and wait until it answers."""
        ready = f"curl -sf -o /dev/null http://127.0.0.1:{self.port}/readyz"
        return self.run(
            f"{self._stop}; {command} --port {self.port} > server.log 2>&1 & server=$!\n"
            f"until {ready}; do kill -0 $server 2> /dev/null || {{ cat server.log; false; break; }}; sleep 0.1; done"
        )

    _stop = '{ [ -z "$server" ] || { kill $server; wait $server; server=; }; } 2> /dev/null'

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{self._stop}\nexit\n")
        self._process.stdin.close()
        self._process.wait(timeout=SECONDS_MAX)
        self._process.stdout.close()


@contextmanager
def a_shell(folder: Path) -> Iterator[Shell]:
    shell = Shell(folder)
    try:
        yield shell
    finally:
        shell.end()


def perform(shell: Shell, step: Step) -> tuple[int, str]:
    match step.command.split():
        case ["python3", "dev.py", "test" | "setup"]:
            return 0, ""  # this is it; see test_dev_test_runs_the_tests
        case ["python3", "dev.py", "demo", *arguments]:
            program, *words = what_dev_would_run("demo", *arguments)
            assert Path(program).stem == CONSOLE_SCRIPT
            assert words == ["demo", "--dir", str(ROOT / ".demo"), *arguments]
            return shell.serve(f'"$PWD/.venv/bin/{CONSOLE_SCRIPT}" demo --dir .demo')
        case ["subscription-mcp", "serve", *_]:
            return shell.serve(step.command)
    command = step.command.replace(PORT, shell.port).replace(
        "bedrock_chat.py", f"bedrock_chat.py {shell.url}"
    )
    return shell.run(command.replace("call.py", f"call.py --url {shell.url}"))


@pytest.mark.skipif(not shutil.which("bash") or not shutil.which("curl"), reason="needs bash and curl")
def test_every_command_does_what_is_shown(checkout: Path) -> None:
    with a_shell(checkout) as shell:
        for step in steps():
            if isinstance(step, Block):
                write(step, checkout)
                continue
            code, output = perform(shell, step)
            shown = f"README.md:{step.line} {step.command}\n{output}"
            assert code == 0, shown
            if step.expected is not None:
                assert re.fullmatch(as_pattern(step.expected), output.replace("\r", "").strip(), re.DOTALL), (
                    shown
                )


def test_the_demo_prints_configurations_that_work(tmp_path: Path) -> None:
    """What is printed is what clients are given; test_mcp_json.py starts such blocks for real."""
    _, *words = what_dev_would_run("demo")
    words[words.index("--dir") + 1] = str(tmp_path / ".demo")
    command = [sys.executable, "-m", "subscription_mcp", *words, "--no-serve"]
    done = subprocess.run(
        command,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS_MAX,
    )
    assert done.returncode == 0, done.stderr
    printed = [
        json.loads(match) for match in re.findall(r"^  \{\n.*?^  \}$", done.stdout, re.DOTALL | re.MULTILINE)
    ]
    desktop, code = (document["mcpServers"]["subscription"] for document in printed)
    assert set(desktop) == {"command", "args", "env"} and Path(desktop["command"]).is_absolute()
    assert Path(desktop["env"]["SUBSCRIPTION_MCP_CONFIG"]).is_file()
    assert code["type"] == "http" and code["url"] == f"http://127.0.0.1:{PORT}/mcp"


# --- The files ---------------------------------------------------------------------------------------------


def test_every_catalog_and_configuration_loads(tmp_path: Path) -> None:
    for block in blocks("toml"):
        write(block, tmp_path)
    names = [block.name for block in blocks("toml")]
    assert sorted(names) == ["my-catalog.toml", "provider.toml", "translations/catalog.toml"]
    for name in ("my-catalog.toml", "translations/catalog.toml"):
        assert load_catalog(str(tmp_path / name)).default_plan == "free"
    provider = load_settings({"config": str(tmp_path / "provider.toml")}, environ={})
    assert (provider.key_kind, provider.issuer) == ("jwks", "https://id.example.com")


def client_configurations() -> list[dict[str, Any]]:
    documents = [json.loads(block.text) for block in blocks("json")]
    return [document for document in documents if "mcpServers" in document or "servers" in document]


def test_the_standard_block_is_mcp_json() -> None:
    assert client_configurations()[0] == json.loads((ROOT / "mcp.json").read_text("utf-8"))


def test_every_client_block_is_the_standard_block_in_that_clients_words() -> None:
    standard = client_configurations()[0]["mcpServers"]
    for document in client_configurations():
        asked = {entry["id"] for entry in document.get("inputs", [])}
        for name, entry in (document.get("mcpServers") or document["servers"]).items():
            model = standard[name]
            assert entry.get("args") == model.get("args") and entry.get("url") == model.get("url")
            assert entry.get("type", "stdio") == model.get("type", "stdio")
            secret = (
                entry["headers"]["Authorization"]
                if "headers" in entry
                else entry["env"]["SUBSCRIPTION_MCP_TOKEN"]
            )
            assert ("headers" in entry) == secret.startswith("Bearer ")
            for word in re.findall(r"\$\{(.*?)\}", secret):
                assert word == "SUBSCRIPTION_MCP_TOKEN" or word.removeprefix("input:") in asked
            assert {variable.removeprefix("SUBSCRIPTION_MCP_") for variable in entry.get("env", {})} <= set(
                settings()
            )
            if "command" in entry:
                assert Path(entry["command"]).name == CONSOLE_SCRIPT


def test_the_claims_shown_are_accepted() -> None:
    import jwt

    claims = next(json.loads(block.text) for block in blocks("json") if '"sub"' in block.text)
    secret = b"0123456789" * 4
    key = VerificationKey(secret, ("HS256",), "secret", may_mint=True)
    token = jwt.encode(claims, secret, "HS256")
    verifier = TokenVerifier(key, issuer="subscription-mcp", audiences=["subscription-mcp"])
    principal = verifier.verify(token, now_seconds=claims["exp"] - 60)
    assert (principal.user, principal.tenant, principal.tier) == ("bella", "acme", "basic")


# --- The tables --------------------------------------------------------------------------------------------


def test_the_generated_tables_are_what_the_code_says() -> None:
    assert with_tables(TEXT) == TEXT, "README.md is behind the code: run `python -m tests.generated_docs`"


def test_every_shipped_catalog_is_there() -> None:
    assert sorted(re.findall(r"`(.+?)`", row[0])[0] for row in table("catalog")) == list(shipped_names())


def test_every_code_is_there_with_its_status() -> None:
    assert {row[0].strip("`"): int(row[1]) for row in table("code")} == HTTP_STATUS


def test_every_exit_code_is_there() -> None:
    codes = {value for name, value in vars(cli).items() if name.startswith("EXIT_")}
    assert {int(row[0]) for row in table("exit code")} == codes | {0}


def test_the_claims_are_those_that_are_read() -> None:
    shown = {tuple(re.findall(r"`(.+?)`", row[0])) for row in table("claim (the first that is there)")}
    names = ClaimNames()
    assert shown == {("sub",), names.tenant, names.group, names.tier, names.roles, ("iss", "aud", "exp")}


def test_the_windows_are_those_there_are() -> None:
    line = next(line for line in TEXT.splitlines() if line.startswith("Windows:"))
    assert re.findall(r"`(.+?)`", line) == list(WINDOW_NAMES)


def settings(model: type[BaseModel] = Settings, above: str = "") -> dict[str, Any]:
    """Every variable a person can set, with its default."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= settings(field.annotation, f"{above}{name.upper()}__")
        elif name != "data_dir":
            found[f"{above}{name.upper()}"] = field.default
    return found


def test_every_setting_is_there_with_its_default() -> None:
    shown = {row[0].strip("`"): row[1] for row in table("variable, after `SUBSCRIPTION_MCP_`")}
    assert list(shown) and set(shown) == set(settings())
    for name, default in settings().items():
        if default is None and not name.startswith("AUTH__ISSUER"):
            assert shown[name] == "none", name
        elif isinstance(default, bool):
            assert shown[name] == f"`{str(default).lower()}`", name
        elif isinstance(default, str) and default:
            assert shown[name] == f"`{default}`", name
    plain = load_settings(environ={})
    assert shown["AUTH__ISSUER"] == f"`{plain.issuer}`"
    assert (shown["AUTH__AUDIENCE"],) == tuple(f"`{name}`" for name in plain.audiences)
    assert f"`{plain.database_path.name}`" in shown["DATABASE_URL"]


def test_every_test_and_file_it_names_is_there() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    missing = [name for name in re.findall(r"`(test_\w+)`", TEXT) if f"def {name}(" not in sources]
    missing += [link for link in re.findall(r"\]\(([^)#:]+)\)", TEXT) if not (ROOT / link).exists()]
    assert not missing
