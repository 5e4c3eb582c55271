"""What `init` writes cannot lie: every example in it holds as it stands, and nothing there is to set is missing."""

import json
import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from subscription_mcp.domain.catalog import Aggregate, AttributeType, Scope
from subscription_mcp.domain.catalog_file import CatalogTable, parse_catalog
from subscription_mcp.domain.windows import WINDOW_NAMES
from subscription_mcp.settings import PREFIX, Settings, SettingsError, load_settings

TEMPLATES = files("subscription_mcp.cli") / "templates"
CATALOG = (TEMPLATES / "catalog.toml").read_text("utf-8")
CONFIGURATION = (TEMPLATES / "subscription.toml").read_text("utf-8")
NOT_IN_THE_FILE = {"CONFIG", "DATA_DIR"}
NEEDS_AN_ISSUER = ("jwks_url", "public_key")


def is_example(line: str) -> bool:
    return re.match(r"\s*#\S", line) is not None


def without_mark(line: str) -> str:
    return re.sub(r"^(\s*)#(?=\S)", r"\1", line)


def examples(text: str) -> list[range]:
    """The lines of each example: one that begins with a table goes on to the end of its comment, every other line
    stands alone."""
    found: list[range] = []
    in_table = False
    for number, line in enumerate(text.splitlines()):
        if not is_example(line):
            in_table = False
        elif in_table:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
            in_table = without_mark(line).startswith("[")
    return found


def with_example(text: str, *taken: range) -> str:
    lines = text.splitlines()
    return "\n".join(
        without_mark(line) if any(number in one for one in taken) else line
        for number, line in enumerate(lines)
    )


def shown(text: str) -> list[Any]:
    """The examples as parameters of a test, named by their first line."""
    return [
        pytest.param(one, id=without_mark(text.splitlines()[one.start]).split("  ")[0].strip())
        for one in examples(text)
    ]


@pytest.mark.parametrize("text", [CATALOG, CONFIGURATION], ids=["catalog", "configuration"])
def test_no_example_hides_as_an_explanation(text: str) -> None:
    hidden = re.compile(r"\s*#\s+(\[|\{|\]|\}|[\w.\"*:]+ = )")
    assert [line for line in text.splitlines() if hidden.match(line)] == []


# The catalog


def test_the_catalog_is_valid_as_it_is_and_with_everything_in_it() -> None:
    assert list(parse_catalog(CATALOG, source="catalog.toml").plans) == ["free", "pro"]
    whole = parse_catalog(with_example(CATALOG, *examples(CATALOG)), source="catalog.toml")
    assert list(whole.plans) == ["free", "pro", "team", "trial"]
    with_trial = CATALOG.replace('default_plan = "free"', 'default_plan = "trial"')
    assert (
        parse_catalog(with_example(with_trial, *examples(CATALOG)), source="catalog.toml").default_plan
        == "trial"
    )


@pytest.mark.parametrize("example", shown(CATALOG))
def test_every_example_of_the_catalog_holds_alone(example: range) -> None:
    before = parse_catalog(CATALOG, source="catalog.toml")
    assert parse_catalog(with_example(CATALOG, example), source="catalog.toml") != before


def keys(model: type[BaseModel]) -> set[tuple[str, str]]:
    """Every key a catalog file may have, with the table it belongs to."""
    found = set()
    for name, field in model.model_fields.items():
        found.add((model.__name__, name))
        for inner in tables_in(field.annotation):
            found |= keys(inner)
    return found


def tables_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from tables_in(inner)


def keys_set(table: BaseModel) -> set[tuple[str, str]]:
    """The keys somebody has written in a table and those below it."""
    found = {(type(table).__name__, name) for name in table.model_fields_set}
    for name in table.model_fields_set:
        value = getattr(table, name)
        inner = (
            list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        )
        for each in inner:
            if isinstance(each, BaseModel):
                found |= keys_set(each)
    return found


def test_the_catalog_shows_every_key_window_and_kind_there_is() -> None:
    text = with_example(CATALOG, *examples(CATALOG))
    table = CatalogTable.model_validate(tomllib.loads(text))
    assert keys(CatalogTable) - keys_set(table) == set()
    limits = [limit for plan in table.plans.values() for limit in plan.limits]
    windows = {re.sub(":.*", ":DURATION", limit.window) for limit in limits}
    assert windows == set(WINDOW_NAMES)
    assert {limit.scope for limit in limits} == set(get_args(Scope))
    assert {meter.aggregate for meter in table.meters.values()} == set(get_args(Aggregate))
    attributes = {kind for event in table.events.values() for kind in event.attributes.values()}
    assert attributes == set(get_args(AttributeType))
    assert {type(plan.features) for plan in table.plans.values() if plan.features} == {list, dict}


# The configuration


def settings(model: type[BaseModel] = Settings, above: str = "") -> dict[str, Any]:
    """Every variable, without its prefix, with its default."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= settings(field.annotation, f"{above}{name.upper()}__")
        else:
            found[f"{above}{name.upper()}"] = field.default
    return {name: default for name, default in found.items() if name not in NOT_IN_THE_FILE}


def explained() -> dict[str, tuple[str, str]]:
    """Each variable, with what its paragraph says is the default and the line that sets it."""
    found = {}
    pattern = rf"^# {PREFIX}(\w+): ((?:.*\n# )*.*?Default:\s(?:# )?(.*))\n(?!# )(.+)"
    for variable, _, default, line in re.findall(pattern, CONFIGURATION, re.MULTILINE):
        found[variable] = (default.removesuffix("."), line)
    return found


def test_every_setting_is_explained_where_it_is_set() -> None:
    assert set(explained()) == set(settings())
    nothing_else = [line for line in CONFIGURATION.splitlines() if re.match(r"#?[a-z_]+ = ", line)]
    assert [line for _, line in explained().values()] == nothing_else
    table = ""
    for line in CONFIGURATION.splitlines():
        if line.startswith("["):
            table = line.strip("[]").replace(".", "__").upper() + "__"
        elif set_here := re.match(r"#?([a-z_]+) = ", line):
            variable = table + set_here[1].upper()
            assert explained()[variable][1] == line


def test_the_defaults_are_those_of_the_code() -> None:
    plain = load_settings(environ={})
    # What the code works out, rather than keeps as a default.
    worked_out = {
        "DATABASE_URL": f"{plain.database_path.name} in the data directory of your user",
        "AUTH__ISSUER": f"{json.dumps(plain.issuer)}, for tokens made here",
        "AUTH__AUDIENCE": f"{json.dumps(plain.audiences)}; with public_url that and /mcp",
        "AUTH__ALGORITHMS": "by the kind of key",
    }
    for variable, default in settings().items():
        expected = worked_out.get(variable) or ("none" if default in (None, ()) else json.dumps(default))
        assert explained()[variable][0] == expected, variable


def loaded(text: str, folder: Path) -> Settings:
    path = folder / "subscription.toml"
    path.write_text(text, "utf-8")
    return load_settings({"config": str(path)}, environ={})


def test_the_configuration_names_what_lies_beside_it(tmp_path: Path) -> None:
    plain = loaded(CONFIGURATION, tmp_path)
    assert (plain.catalog_path, plain.database_path) == (tmp_path / "catalog.toml", tmp_path / "ledger.db")
    assert plain.key_kind == "local"


@pytest.mark.parametrize("example", shown(CONFIGURATION))
def test_every_example_of_the_configuration_holds(example: range, tmp_path: Path) -> None:
    line = without_mark(CONFIGURATION.splitlines()[example.start])
    if line.startswith("secret ="):
        # A secret that stands in a public file is none: who takes only the mark away is told to make one.
        with pytest.raises(SettingsError, match="openssl rand"):
            loaded(with_example(CONFIGURATION, example), tmp_path)
        return
    needs = (
        "#issuer" if line.startswith(NEEDS_AN_ISSUER) else "#secret_file" if line.startswith("url") else None
    )
    needed = [
        one
        for one in examples(CONFIGURATION)
        if needs is not None and CONFIGURATION.splitlines()[one.start].startswith(needs)
    ]
    loaded(with_example(CONFIGURATION, example, *needed), tmp_path)
