"""Who provides a model: the one name of each provider, and what the names of models say.

A model is written in many ways: `gpt-4o`, `openai/gpt-4o`, `openai:gpt-4o`, `openrouter/openai/gpt-4o`. Who stands first is
called, and paid.
"""

import re
from functools import lru_cache

_ALSO_CALLED = {
    "anthropic": ("claude",),
    "azure": ("azure-ai", "azure-openai", "microsoft-azure"),
    "bedrock": ("amazon", "amazon-bedrock", "aws", "aws-bedrock", "bedrock-converse"),
    "cerebras": (),
    "cohere": (),
    "deepseek": (),
    "exa": ("metaphor",),
    "firecrawl": (),
    "fireworks": ("fireworks-ai",),
    "gemini": ("google", "google-ai", "google-ai-studio", "google-genai", "google-gla", "googleai"),
    "groq": (),
    "mistral": ("mistral-ai", "mistralai"),
    "moonshotai": ("moonshot",),
    "openai": ("open-ai", "openai-chat", "openai-responses"),
    "openrouter": (),
    "perplexity": (),
    "serper": (),
    "stability": ("stability-ai", "stabilityai"),
    "tavily": (),
    "together": ("together-ai", "togetherai"),
    "vertex": ("gcp-vertex", "gcp-vertex-ai", "google-vertex", "google-vertex-ai", "vertex-ai", "vertexai"),
    "x-ai": ("grok", "xai"),
}
PROVIDERS = frozenset(_ALSO_CALLED)
"""Providers that are known by one name, however it is written."""
PROVIDER_ALIASES = {other: name for name, others in _ALSO_CALLED.items() for other in others}

_OWNED_BY_BEDROCK = (
    "ai21",
    "amazon",
    "anthropic",
    "cohere",
    "deepseek",
    "meta",
    "mistral",
    "openai",
    "qwen",
    "stability",
    "writer",
)
_PROVIDER_OF_MODEL = tuple(
    (provider, re.compile(pattern))
    for provider, pattern in (
        # Bedrock alone writes the maker with a dot, perhaps behind the region: us.anthropic.claude-…-v1:0
        ("bedrock", rf"([a-z]{{2,6}}(-gov)?\.)?({'|'.join(_OWNED_BY_BEDROCK)})\."),
        ("gemini", r"gemini-"),
        ("openai", r"gpt-(?!oss)|chatgpt-|o[1-9](-|$)|text-embedding-(3|ada)|dall-e-|whisper-1$|tts-1"),
        ("anthropic", r"claude-"),
        (
            "mistral",
            r"(mistral|ministral|mixtral|open-mistral|open-mixtral|codestral|devstral|magistral|pixtral|voxtral)-",
        ),
        ("stability", r"stable-(diffusion|image)|sd3"),
        ("deepseek", r"deepseek-(chat|reasoner)$"),
        ("x-ai", r"grok-"),
        ("cohere", r"command-"),
        *((name, rf"{name}(-|$)") for name in ("tavily", "serper", "exa", "firecrawl")),
    )
)
_VERSION = re.compile(r"-\d{3}$")
_BEDROCK_ARN = re.compile(r"arn:aws[a-z-]*:bedrock:")


@lru_cache(4096)
def canonical_provider(provider: str) -> str:
    """The one name of a provider: `Google` is gemini; one that is not known stays as it is written, without
    blanks around it."""
    trimmed = provider.strip()
    lower = trimmed.lower().replace("_", "-").replace(" ", "-")
    name = PROVIDER_ALIASES.get(lower, lower)
    return name if name in PROVIDERS else trimmed or provider


@lru_cache(4096)
def provider_of_model(model: str) -> str | None:
    """Who provides a model, by its name: `gemini-2.5-pro`, `openai/gpt-5`; None where the name does not say."""
    lower = model.lower()
    if _BEDROCK_ARN.match(lower):
        return "bedrock"
    owner, name = _owner_and_name(lower)
    if owner is not None:
        said = canonical_provider(owner)
        if said in PROVIDERS:
            return said
        if owner != "models":  # how Google writes them; anything else is somebody's own
            return None
    return next((provider for provider, pattern in _PROVIDER_OF_MODEL if pattern.match(name)), None)


def names_of_model(model: str) -> tuple[str, ...]:
    """What a model may be called in a list of prices, in lower case: as it is written, then without who stands first."""
    names = [model.lower()]
    owner, name = _owner_and_name(names[0])
    while owner is not None and name:
        names.append(name)
        owner, _, name = name.partition("/")
    return tuple(names)


def unversioned(model: str) -> str | None:
    """A model's name without the number of its version: `gemini-2.5-flash` of `gemini-2.5-flash-001`; None where it has
    none."""
    name = _VERSION.sub("", model)
    return name if name and name != model else None


def _owner_and_name(model: str) -> tuple[str | None, str]:
    """Who stands before the first slash, or as a known provider before a colon, and the rest. A colon is also a part of
    names: `…-v1:0`, `…:free`."""
    owner, colon, name = model.partition(":")
    if colon and canonical_provider(owner) in PROVIDERS:
        return owner, name
    owner, slash, name = model.partition("/")
    return (owner, name) if slash else (None, model)
