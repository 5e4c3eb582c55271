"""A catalog with a price book: the shipped one, and what models and search, page and image providers cost."""

from pathlib import Path

from tests.harness import ROOT

SHIPPED = ROOT / "src/subscription_mcp/catalogs/bedrock-chat.toml"

PRICES = """
[[prices]]
provider = "gemini"
model = "gemini-2.0-flash-lite"
title = "Gemini 2.0 Flash-Lite"
input_per_million_tokens = "0.075"
output_per_million_tokens = "0.30"

[[prices]]
provider = "gemini"
model = "gemini-2.5-flash"
input_per_million_tokens = "0.125"
output_per_million_tokens = "0.375"

[[prices]]
provider = "gemini"
model = "gemini-2.5-pro"
title = "Gemini 2.5 Pro"
input_per_million_tokens = "1.25"
output_per_million_tokens = "10.00"

[[prices]]
provider = "tavily"
per_unit = "0.001"
unit = "search"

[[prices]]
provider = "serper"
per_unit = "0.001"
unit = "search"

[[prices]]
provider = "exa"
title = "Exa (Metaphor)"
per_unit = "0.003"
unit = "search"

[[prices]]
provider = "firecrawl"
currency = "EUR"
per_unit = "0.002"
unit = "page"

[[prices]]
provider = "stability"
model = "image"
per_unit = "0.04"
unit = "image"
"""


def a_priced_catalog(folder: Path) -> str:
    """The path of such a catalog's file."""
    path = folder / "priced.toml"
    path.write_text(SHIPPED.read_text("utf-8") + PRICES, "utf-8")
    return str(path)
