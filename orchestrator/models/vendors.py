"""Kinds of providers: which format each speaks, where it is, and which library it needs. Pure; imports nothing of a
provider. `config.PROVIDER_KEYS` has the same names with the variables that their keys are in.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vendor:
    """One kind of provider. The names of kinds are pydantic-ai's, but for `gemini`."""

    format: str
    """`gemini`, `openai`, `anthropic`; else what only this one speaks, through pydantic-ai's own model of it."""
    base_url: str = ""
    """Where it is. Always passed on, so that no library looks for another in the environment; empty: has to be set, or
    only its library knows.
    """
    module: str = ""
    """The library that it needs, where that does not come with Corral, and ..."""
    extra: str = ""
    """... the extra of pydantic-ai-slim that installs it."""
    chat_url: str = ""
    """Where it speaks OpenAI's chat format as well, for those who do not want to install that."""

    @property
    def missing(self) -> str:
        """What is to be installed first; empty if nothing. Imports nothing."""
        if not self.module or importlib.util.find_spec(self.module) is not None:
            return ""
        instead = f', or use kind = "openai" with base_url = "{self.chat_url}"' if self.chat_url else ""
        return f'install "pydantic-ai-slim[{self.extra}]" beside Corral{instead}'


GEMINI = ("gemini", "google-cloud")
"""Formats that sign whatever a model said, and have a place for media in it. What one signed, the other refuses."""
OPENAI_URL = "https://api.openai.com/v1"
VENDORS: Mapping[str, Vendor] = {
    "gemini": Vendor("gemini", "https://generativelanguage.googleapis.com"),
    "openai": Vendor("openai", OPENAI_URL),
    "anthropic": Vendor("anthropic", "https://api.anthropic.com"),
    "alibaba": Vendor("openai", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"),
    "bedrock": Vendor("bedrock", module="boto3", extra="bedrock"),
    "cerebras": Vendor("openai", "https://api.cerebras.ai/v1"),
    "cohere": Vendor("cohere", "", "cohere", "cohere", "https://api.cohere.ai/compatibility/v1"),
    "crusoe": Vendor("openai", "https://api.inference.crusoecloud.com/v1"),
    "deepseek": Vendor("openai", "https://api.deepseek.com"),
    "fireworks": Vendor("openai", "https://api.fireworks.ai/inference/v1"),
    "google-cloud": Vendor("google-cloud"),
    "groq": Vendor("groq", "https://api.groq.com", "groq", "groq", "https://api.groq.com/openai/v1"),
    "heroku": Vendor("openai", "https://us.inference.heroku.com/v1"),
    "huggingface": Vendor("huggingface", "", "huggingface_hub", "huggingface", "https://router.huggingface.co/v1"),
    "litellm": Vendor("openai"),
    "mistral": Vendor("mistral", "https://api.mistral.ai", "mistralai", "mistral", "https://api.mistral.ai/v1"),
    "moonshotai": Vendor("openai", "https://api.moonshot.ai/v1"),
    "nebius": Vendor("openai", "https://api.studio.nebius.com/v1"),
    "ollama": Vendor("openai"),
    "openrouter": Vendor("openrouter", "https://openrouter.ai/api/v1"),
    "ovhcloud": Vendor("openai", "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1"),
    "sambanova": Vendor("openai", "https://api.sambanova.ai/v1"),
    "together": Vendor("openai", "https://api.together.xyz/v1"),
    "vercel": Vendor("openai", "https://ai-gateway.vercel.sh/v1"),
    "vllm": Vendor("openai"),
    "xai": Vendor("xai", "", "xai_sdk", "xai", "https://api.x.ai/v1"),
    "zai": Vendor("openai", "https://api.z.ai/api/paas/v4"),
}


def is_chat(kind: str) -> bool:
    """Whether it is spoken to in OpenAI's chat format, or a dialect of it, by OpenAI's library."""
    return VENDORS[kind].format in ("openai", "openrouter")
