"""The house rules, read from the source: who may import whom, what stays pure, what is documented.

A failure lists `file:line` and the rule that line breaks.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "subscription_mcp"
SOURCE = ROOT / "src" / PACKAGE
MIGRATIONS = SOURCE / "ledger" / "migrations" / "sqlite"
README = ROOT / "README.md"

# --- Reading the source ------------------------------------------------------------------------------------


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (SOURCE / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = [PACKAGE, *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_file(module: str) -> Path | None:
    """The file of one of our modules; None when the name is not a module of ours."""
    if module.split(".")[0] != PACKAGE:
        return None
    path = SOURCE.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT).as_posix()}:{line}"


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain; an unnamed value at its root is left out."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Every imported name with its line, wherever it stands: at the top, in a function, under TYPE_CHECKING.

    `from a import b` yields `a.b`: whether b is a module or a name in one, its first parts are the same.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, name.name) for name in names)
            case ast.ImportFrom(module=base, names=names, level=level):
                above = module.split(".")
                above = above[: len(above) - level + is_package] if level else []
                prefix = ".".join([*above, *([base] if base else [])])
                yield from ((node.lineno, f"{prefix}.{name.name}") for name in names)
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if dotted(func).split(".")[
                -1
            ] in {
                "import_module",
                "__import__",
            }:
                yield node.lineno, name


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    return imports(tree_of(path), module_name(path), path.name == "__init__.py")


# --- Layers ------------------------------------------------------------------------------------------------

# What each part of the house may import of the rest. A new part needs its own line: choose its place.
MAY_IMPORT: dict[str, set[str]] = {
    "": {"domain"},  # the public names in __init__.py: cheap to import, for everybody
    "domain": set(),
    "settings": {"domain"},
    "catalogs": {"domain"},
    "ledger": {"domain"},
    "auth": {"domain", "settings"},
    "operations": {"ledger", "auth", "domain"},
    "tools": {"operations", "auth", "domain"},
    "billing": {"operations", "domain"},
    "webhooks": {"ledger", "domain"},
    "server": {"tools", "operations", "auth", "domain", "settings"},
    "web": {"tools", "operations", "auth", "domain", "settings"},  # assembly.py joins it with server
}
MAY_IMPORT["assembly"] = {*MAY_IMPORT}
MAY_IMPORT["cli"] = {*MAY_IMPORT}
MAY_IMPORT["__main__"] = {"cli"}


def part_of(module: str) -> str | None:
    """`ledger` of `subscription_mcp.ledger.sqlite.engine`, "" of a public name, None of what is not ours."""
    package, _, rest = module.partition(".")
    if package != PACKAGE:
        return None
    part = rest.split(".")[0]
    return part if module_file(f"{PACKAGE}.{part}") or (SOURCE / part).is_dir() else ""


def upward_imports(tree: ast.AST, module: str, is_package: bool = False) -> list[tuple[int, str]]:
    part = part_of(module)
    assert part in MAY_IMPORT, f"{module} has no line in MAY_IMPORT: choose its place among the layers"
    allowed = MAY_IMPORT[part] | {part, ""}
    return [
        (line, name)
        for line, name in imports(tree, module, is_package)
        if (target := part_of(name)) is not None and target not in allowed
    ]


def test_layers_look_down_only() -> None:
    offending = [
        f"{place(path, line)} {part_of(module_name(path)) or PACKAGE} may not import {name}"
        for path in python_files(".")
        for line, name in upward_imports(tree_of(path), module_name(path), path.name == "__init__.py")
    ]
    assert not offending, "\n".join(offending)


@pytest.mark.parametrize(
    "source",
    [
        "from subscription_mcp.ledger import writer",
        "from subscription_mcp import ledger",
        "import subscription_mcp.ledger.writer as w",
        "from ..ledger.writer import Writer",
        "from .. import ledger",
        "def f():\n    from subscription_mcp.ledger.writer import Writer",
        "if TYPE_CHECKING:\n    import subscription_mcp.ledger",
        "importlib.import_module('subscription_mcp.ledger.writer')",
    ],
)
def test_an_import_that_looks_up_is_seen_however_it_is_written(source: str) -> None:
    assert upward_imports(ast.parse(source), f"{PACKAGE}.domain.windows")


# --- Dependencies ------------------------------------------------------------------------------------------


def normal(distribution: str) -> str:
    """The name of a distribution, however it was written."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@cache
def declared_distributions() -> set[str]:
    """What an installation brings: the dependencies of pyproject.toml, with those of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *chain(*project.get("optional-dependencies", {}).values())]
    return {normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in wanted}


@cache
def installed_distributions() -> Mapping[str, list[str]]:
    """Which distributions bring a package of this name."""
    return packages_distributions()


def undeclared_imports(tree: ast.AST, module: str, is_package: bool = False) -> list[tuple[int, str]]:
    declared, providers = declared_distributions(), installed_distributions()
    ours = {PACKAGE, *sys.stdlib_module_names}
    return [
        (line, name)
        for line, name in imports(tree, module, is_package)
        if (top := name.split(".")[0]) not in ours
        and declared.isdisjoint(normal(provider) for provider in providers.get(top, [top]))
    ]


def test_what_is_imported_is_declared() -> None:
    """What only comes along with something else may stay away with its next version."""
    offending = [
        f"{place(path, line)} imports {name}, which no dependency in pyproject.toml is"
        for path in python_files(".")
        for line, name in undeclared_imports(tree_of(path), module_name(path), path.name == "__init__.py")
    ]
    assert not offending, "\n".join(offending)


@pytest.mark.parametrize(
    "source", ["import pytest", "def f():\n    from hypothesis import given", "import no_such_package.part"]
)
def test_an_import_of_what_is_not_declared_is_seen(source: str) -> None:
    assert undeclared_imports(ast.parse(source), f"{PACKAGE}.web.app")


# --- Purity ------------------------------------------------------------------------------------------------

IMPURE_MODULES = {
    *("asyncio", "anyio", "sqlite3", "aiosqlite", "os", "pathlib", "time", "random", "secrets", "socket"),
    *("mcp", "starlette", "logging"),
}
IMPURE_CALLS = {"open", "print", "input"}
CLOCK_READS = {"now", "utcnow", "today"}
RANDOM_IDS = {"uuid1", "uuid4"}


def pure_files() -> list[Path]:
    """The domain, the ledger's commands and machine, and every module of ours that one of these imports."""
    waiting = [*python_files("domain"), *python_files("ledger/machine"), SOURCE / "ledger" / "commands.py"]
    pure: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in pure:
            pure.add(path)
            names = [name for _, name in imports_of(path)]
            found = [module_file(name) or module_file(name.rpartition(".")[0]) for name in names]
            waiting += [file for file in found if file is not None]
    return sorted(pure)


def impurities(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    for line, name in imports(tree, module, is_package=False):
        if name.split(".")[0] in IMPURE_MODULES:
            yield line, f"imports {name}"
    for node in ast.walk(tree):
        match node:
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield node.lineno, "waits"
            case ast.Call(func=func):
                name = dotted(func)
                last = name.split(".")[-1]
                if isinstance(func, ast.Attribute) and last in CLOCK_READS:
                    yield node.lineno, f"reads the clock: {name}()"
                if name in IMPURE_CALLS or last in RANDOM_IDS or name == "time.time" or "random." in name:
                    yield node.lineno, f"calls {name}()"


def test_the_domain_and_the_ledgers_machine_are_pure() -> None:
    offending = [
        f"{place(path, line)} {what}"
        for path in pure_files()
        for line, what in impurities(tree_of(path), module_name(path))
    ]
    assert not offending, "\n".join(offending)


@pytest.mark.parametrize(
    "source",
    [
        "import os.path",
        "from random import choice",
        "async def f(): ...",
        "datetime.now(UTC)",
        "datetime.datetime.utcnow()",
        "date.today()",
        "uuid.uuid4()",
        "open('x')",
        "def f():\n    import time",
    ],
)
def test_an_impurity_is_seen_however_it_is_written(source: str) -> None:
    assert list(impurities(ast.parse(source), f"{PACKAGE}.domain.windows"))


def test_nothing_below_the_command_line_prints() -> None:
    offending = []
    for path in python_files("domain", "ledger", "auth", "operations", "tools", "server", "web"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and dotted(node.func) == "print":
                offending.append(f"{place(path, node.lineno)} prints")
            if isinstance(node, ast.Attribute) and dotted(node) in {"sys.stdout", "sys.__stdout__"}:
                offending.append(f"{place(path, node.lineno)} touches {dotted(node)}")
        offending += [
            f"{place(path, line)} imports {name}" for line, name in imports_of(path) if name == "sys.stdout"
        ]
    assert not offending, "\n".join(offending)


def test_no_quantity_is_a_float() -> None:
    """A wait in seconds or a share for the eye may be one: its line then says `# not a quantity`."""
    offending = []
    for path in python_files("domain", "ledger"):
        lines = path.read_text("utf-8").splitlines()
        for node in ast.walk(tree_of(path)):
            literal = isinstance(node, ast.Constant) and isinstance(node.value, float)
            call = isinstance(node, ast.Call) and dotted(node.func) == "float"
            if (literal or call) and "# not a quantity" not in lines[node.lineno - 1]:
                offending.append(f"{place(path, node.lineno)} {ast.unparse(node)}")
    assert not offending, "\n".join(offending)


# --- Migrations --------------------------------------------------------------------------------------------


def test_migrations_are_numbered_without_a_gap() -> None:
    names = sorted(path.name for path in MIGRATIONS.glob("*.sql"))
    assert names, f"no migrations in {MIGRATIONS.relative_to(ROOT).as_posix()}"
    misnamed = [name for name in names if not re.fullmatch(r"\d{4}_[a-z0-9_]+\.sql", name)]
    assert not misnamed, f"not NNNN_name.sql: {misnamed}"
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1)), names


# --- What is documented ------------------------------------------------------------------------------------


def missing_from_readme(words: Iterable[str]) -> list[str]:
    """Those that do not stand in README.md as words of their own."""
    readme = README.read_text("utf-8")
    return [word for word in words if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", readme)]


def test_every_error_code_is_in_the_readme() -> None:
    from subscription_mcp.domain.errors import HTTP_STATUS

    missing = missing_from_readme(f"`{code}`" for code in HTTP_STATUS)
    assert not missing, f"README.md does not name these codes: {missing}"


def setting_variables() -> list[str]:
    """Each field of Settings without its prefix, the fields of a section behind its name: `AUTH__ISSUER`."""
    from pydantic import BaseModel

    from subscription_mcp.settings import Settings

    def of(model: type[BaseModel], prefix: str) -> Iterator[str]:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from of(field.annotation, f"{prefix}{name.upper()}__")
            else:
                yield f"{prefix}{name.upper()}"

    return list(of(Settings, ""))


def test_every_setting_is_in_the_readme() -> None:
    """With the prefix or, as in a table whose head gives it, without."""
    missing = [
        name
        for name in setting_variables()
        if missing_from_readme([f"`{name}`"]) and missing_from_readme([f"SUBSCRIPTION_MCP_{name}"])
    ]
    assert not missing, f"README.md does not name these settings: {missing}"


def command_lines() -> list[str]:
    """Every command a person can type, from `demo` to `token mint`; hidden ones are left out."""
    import click

    from subscription_mcp.cli.main import cli

    def of(command: click.Command, words: tuple[str, ...]) -> Iterator[str]:
        if not isinstance(command, click.Group):
            yield " ".join(words)
            return
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from of(child, (*words, name))

    return list(of(cli, ()))


def test_every_command_is_in_the_readme() -> None:
    missing = missing_from_readme(f"subscription-mcp {line}" for line in command_lines())
    assert not missing, f"README.md does not show these commands: {missing}"


# --- Who may do what ---------------------------------------------------------------------------------------

PERMISSIONS = "give it a row in auth/permissions.py, or nobody has it"


def actions_of(tool: str) -> set[str]:
    """What the argument `action` of a tool may be."""
    from subscription_mcp.tools.toolbox import TOOLS

    (arguments,) = [one.arguments for one in TOOLS if one.name == tool]
    field = arguments.model_fields.get("action")
    return set(get_args(field.annotation)) if field is not None else set()


def test_every_tool_and_action_has_a_row_and_every_row_what_it_is_about() -> None:
    from subscription_mcp.auth import permissions
    from subscription_mcp.tools.toolbox import TOOLS

    tools = {tool.name for tool in TOOLS}
    without = [
        row
        for tool in tools
        for row in {permissions.row_of_action(tool, action) for action in actions_of(tool)} or {tool}
        if row not in permissions.REACH
    ]
    assert not without, f"{without}: {PERMISSIONS}"
    surfaces = [permissions.RESOURCES, permissions.PROMPTS, permissions.COMPLETIONS]
    surfaces += [permissions.ROUTES, permissions.COMMANDS]
    there = tools | {f"{tool}.{action}" for tool in tools for action in actions_of(tool)}
    there |= {f"{tool.name}.{argument}" for tool in TOOLS for argument in tool.arguments.model_fields}
    there |= {row for surface in surfaces for row in surface.values()}
    idle = {row for row in permissions.REACH if row not in there}
    assert not idle, f"rows that decide nothing: {idle}"


async def test_every_resource_prompt_and_completion_has_a_row(tmp_path: Path) -> None:
    from tests.harness import Place

    from subscription_mcp.assembly import catalog_of, make_service
    from subscription_mcp.auth.identity import identify_by_request
    from subscription_mcp.auth.permissions import COMPLETIONS, PROMPTS, REACH, RESOURCES
    from subscription_mcp.auth.revocations import Revocations
    from subscription_mcp.server.mcp import build_server

    async def none(position: int) -> list[Any]:
        return []

    settings = Place(tmp_path).settings()
    service = make_service(settings, catalog_of(settings))
    server = build_server(service.toolbox, identify_by_request, Revocations(none))
    templates = [found.uri_template for found in await server.list_resource_templates()]
    resources = {str(found.uri) for found in await server.list_resources()} | set(templates)
    prompts = {found.name: found.arguments or [] for found in await server.list_prompts()}
    completed = {f"{name} of {key}" for key in templates for name in re.findall(r"{\+?(\w+)}", key)}
    completed |= {f"{one.name} of {key}" for key, arguments in prompts.items() for one in arguments}
    # A number is typed, not chosen.
    completed.discard("quantity of explain_denial")
    for rows, there in ((RESOURCES, resources), (PROMPTS, set(prompts)), (COMPLETIONS, completed)):
        assert there <= set(rows), f"{there - set(rows)}: {PERMISSIONS}"
        assert set(rows) <= there, f"rows of what is not there: {set(rows) - there}"
        assert set(rows.values()) <= set(REACH)


def test_every_route_has_a_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tests.harness import Place

    from subscription_mcp.assembly import catalog_of, make_http_app, make_service
    from subscription_mcp.auth.permissions import ANY_CALLER, ANYBODY, REACH, ROUTES

    settings = Place(tmp_path).settings()
    make_http_app(settings, make_service(settings, catalog_of(settings)), "http://127.0.0.1")
    left_out = [record.getMessage() for record in caplog.records if "permission table" in record.getMessage()]
    assert not left_out, f"{left_out}: {PERMISSIONS}"
    assert set(ROUTES.values()) <= {ANYBODY, ANY_CALLER, *REACH}


def test_every_command_has_a_row() -> None:
    import importlib

    import click

    from subscription_mcp.auth.permissions import COMMANDS, FILES_ONLY, REACH
    from subscription_mcp.cli import main

    def leaves(command: click.Command, words: str) -> Iterator[str]:
        if isinstance(command, click.Group):
            for name, child in command.commands.items():
                yield from leaves(child, f"{words} {name}")
        else:
            yield words

    there = set()
    for words, written in main.COMMANDS.items():
        module, name = written.split(":")
        there |= set(leaves(getattr(importlib.import_module(module), name), words))
    assert there <= set(COMMANDS), f"{there - set(COMMANDS)}: {PERMISSIONS}"
    assert set(COMMANDS) <= there, f"rows of what is not there: {set(COMMANDS) - there}"
    assert set(COMMANDS.values()) <= {FILES_ONLY, *REACH}


# --- Which systems the tests can be collected on -----------------------------------------------------------

POSIX_ONLY = {"fcntl", "grp", "pwd", "resource", "termios"}


def test_no_test_file_needs_a_posix_module_to_be_read() -> None:
    offending = []
    for path in repository_files():
        if path.suffix != ".py" or path.relative_to(ROOT).parts[0] != "tests":
            continue
        tops = [node for node in tree_of(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        for line, name in imports(ast.Module(list[ast.stmt](tops), []), "tests", is_package=False):
            if name.split(".")[0] in POSIX_ONLY:
                offending.append(f"{place(path, line)} imports {name}: ask `tests.platforms.posix` for it")
    assert not offending, "\n".join(offending)


# --- What the repository does not hold ---------------------------------------------------------------------

# In pieces, so that this file does not hold what it forbids.
MACHINE_PATHS = [
    r"(?<![\w.~-])/" + "(work|root)" + "/",
    r"(?<![\w.~-])/" + "home/" + r"\w",
    r"(?<![\w.~-])/" + "Users/" + r"\w",
]
REGISTRY_HOSTS = [
    re.escape(".".join(pieces))
    for pieces in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("crates", "io"),
        ("rubygems", "org"),
        ("anaconda", "org"),
        ("proxy", "golang", "org"),
    ]
]
FORBIDDEN_TEXT = re.compile("|".join([*MACHINE_PATHS, *REGISTRY_HOSTS]))
NOT_OURS = {"__pycache__", "dist", "build", "node_modules"}


def repository_files() -> list[Path]:
    """What git tracks or would track; without git, everything outside hidden and made folders."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = []
    if any(names):
        return [path for name in names if name and (path := ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not is_made(path.relative_to(ROOT).parts)]


def is_made(parts: tuple[str, ...]) -> bool:
    return any(part in NOT_OURS or (part.startswith(".") and part != ".ci") for part in parts[:-1])


def test_no_file_names_a_machines_path_or_a_package_registry() -> None:
    offending = []
    for path in repository_files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:  # not a text
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if found := FORBIDDEN_TEXT.search(line):
                offending.append(f"{place(path, number)} {found.group()}")
    assert not offending, "\n".join(offending)


def test_no_lock_file_says_where_a_package_comes_from() -> None:
    locks = [path for path in repository_files() if path.name in ("requirements.lock", "package-lock.json")]
    assert len(locks) == 3
    assert [path.name for path in locks if "://" in path.read_text("utf-8")] == []


def test_every_decision_has_a_number_of_its_own_and_is_listed_in_order() -> None:
    folder = ROOT / "docs" / "decisions"
    files = sorted(path.name for path in folder.glob("0*.md"))
    numbers = [name[:4] for name in files]
    assert numbers == [f"{number:04}" for number in range(1, len(files) + 1)]
    assert [(folder / name).read_text("utf-8")[2:6] for name in files] == numbers
    listed = re.findall(
        r"^\| \[(\d{4})\]\((.+?)\) \|", (folder / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert listed == list(zip(numbers, files, strict=True))
