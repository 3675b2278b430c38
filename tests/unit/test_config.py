from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.config import Settings
from orchestrator.errors import ConfigError
from orchestrator.policy.bounds import Maxima


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, data folder and home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORRAL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    for name in ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_defaults_are_those_of_the_design(folder: Path) -> None:
    settings = Settings.load()
    assert settings.host == "127.0.0.1"
    assert settings.resources.memory_bytes == 2 * 1024**3
    assert (settings.resources.cpus, settings.resources.pids) == (2.0, None)
    assert Settings().maxima.model_dump() == asdict(Maxima()), "two places say the same"
    assert settings.call_timeout_s == 600
    assert settings.output_limit_bytes == 1024**2
    assert settings.request_limit_bytes == 32 * 1024**2
    assert settings.agent_aliases["antigravity-preview-09-2026"] == "general"


def test_direct_construction_reads_neither_file_nor_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_PORT", "9")
    (folder / "corral.toml").write_text("port = 10")
    assert Settings(data_dir=folder).port == 8080


def test_later_sources_win(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "corral.toml").write_text("port = 1001\nmax_turns = 7\nhost = '::1'\n[resources]\ncpus = 1\npids = 99\n")
    monkeypatch.setenv("CORRAL_MAX_TURNS", "8")
    monkeypatch.setenv("CORRAL_RESOURCES__CPUS", "0.5")
    settings = Settings.load(host="127.0.0.2", port=None)
    assert (settings.port, settings.max_turns, settings.host) == (1001, 8, "127.0.0.2")
    assert (settings.resources.cpus, settings.resources.pids) == (0.5, 99)


def test_the_file_is_named_or_here_or_in_the_data_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "data").mkdir()
    (folder / "data/corral.toml").write_text("port = 1")
    assert Settings.load().port == 1
    (folder / "corral.toml").write_text("port = 2")
    assert Settings.load().port == 2
    (folder / "other.toml").write_text("port = 3")
    monkeypatch.setenv("CORRAL_CONFIG", str(folder / "other.toml"))
    assert Settings.load().port == 3


def test_a_named_file_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_CONFIG", "gone.toml")
    with pytest.raises(ConfigError, match=r"cannot read the settings file gone\.toml"):
        Settings.load()


def test_broken_toml_names_the_file(folder: Path) -> None:
    (folder / "corral.toml").write_text("port = ")
    with pytest.raises(ConfigError, match=r"corral\.toml is not valid TOML"):
        Settings.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", r"unknown setting 'prot' \(corral\.toml\), closest known name: port"),
        ("[maxima]\nmemory = 1", r"unknown setting 'maxima\.memory' .*closest known name: memory_bytes"),
        ("[maxima]\ncpus = 0", r"setting 'maxima\.cpus'"),
        ("[resources]\nmemory = 1", r"unknown setting 'resources\.memory' .*closest known name: memory_bytes"),
        ("port = 'x'", r"setting 'port' \(corral\.toml\): Input should be a valid integer"),
        ("port = 70000", "less than or equal to 65535"),
        ("log_level = 'loud'", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_fault_in_the_file_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "corral.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Settings.load()


def test_all_faults_are_named_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "corral.toml").write_text("prot = 1")
    monkeypatch.setenv("CORRAL_MAX_TURNS", "0")
    with pytest.raises(ConfigError) as caught:
        Settings.load()
    assert "'prot'" in caught.value.message
    assert "variable CORRAL_MAX_TURNS" in caught.value.message


@pytest.mark.parametrize(
    ("name", "closest"), [("CORRAL_PROT", "CORRAL_PORT"), ("CORRAL_RESOURCE__CPUS", "CORRAL_RESOURCES")]
)
def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, closest: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=f"unknown variable {name}, closest known name: {closest}$"):
        Settings.load()


def test_a_variable_with_a_bad_value_is_named_and_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_API_KEY", "canary")
    monkeypatch.setenv("CORRAL_PORT", "many")
    with pytest.raises(ConfigError, match=r"setting 'port' \(variable CORRAL_PORT\)") as caught:
        Settings.load()
    assert "canary" not in str(caught.value)


def test_aliases_add_to_the_shipped_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_AGENT_ALIASES", '{"helper": "general"}')
    aliases = Settings.load().agent_aliases
    assert aliases["helper"] == "general"
    assert "antigravity-preview-05-2026" in aliases


def test_a_table_that_is_not_json_in_a_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_AGENT_ALIASES", "helper=general")
    with pytest.raises(ConfigError, match="agent_aliases"):
        Settings.load()


def test_the_engine_is_that_of_the_setting_then_docker_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://user@elsewhere")
    assert Settings.load().engine_url == "ssh://user@elsewhere"
    (folder / "corral.toml").write_text("engine_url = 'unix:///x.sock'")
    assert Settings.load().engine_url == "unix:///x.sock"


def test_settings_cannot_be_changed(folder: Path) -> None:
    settings = Settings(data_dir=folder)
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"host": "::1", "port": 9}, "http://[::1]:9"),
        ({"host": "0.0.0.0"}, "http://127.0.0.1:8080"),
        ({"url": "https://agents.example/x/"}, "https://agents.example/x"),
    ],
)
def test_where_the_command_line_finds_the_server(given: dict[str, object], url: str) -> None:
    assert Settings.load(**given).server_url == url


def test_the_engines_certificates_are_where_dockers_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CERT_PATH", "/certs")
    assert Settings.load().engine_tls.ca is None
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    tls = Settings.load().engine_tls
    assert (tls.ca, tls.cert, tls.key) == (Path("/certs/ca.pem"), Path("/certs/cert.pem"), Path("/certs/key.pem"))
    monkeypatch.setenv("CORRAL_ENGINE_TLS__CA", "/own.pem")
    assert (Settings.load().engine_tls.ca, Settings.load().engine_tls.key) == (Path("/own.pem"), None)


def test_a_certificate_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_ENGINE_TLS__CERT", "/cert.pem")
    with pytest.raises(ConfigError, match=r"engine_tls.*'cert' and 'key' go together"):
        Settings.load()


def test_environments_rest_before_they_go() -> None:
    lifecycle = Settings().lifecycle
    assert (lifecycle.pause_after_s, lifecycle.stop_after_s, lifecycle.delete_after_s) == (300, 900, 7 * 24 * 3600)


def test_providers_come_from_tables_variables_and_what_others_know(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "corral.toml").write_text("[providers.local]\nkind = 'openai'\nbase_url = 'http://127.0.0.1:8000/v1'\n")
    monkeypatch.setenv("CORRAL_PROVIDERS__GEMINI__API_KEY", "canary-own")
    monkeypatch.setenv("GEMINI_API_KEY", "canary-usual")
    monkeypatch.setenv("OPENAI_API_KEY", "canary-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("DEEPSEEK_API_KEY", "canary-deepseek")
    monkeypatch.setenv("VLLM_API_KEY", "canary-not-taken")
    settings = Settings.load()
    keys = {name: each.api_key.get_secret_value() for name, each in settings.providers.items() if each.api_key}
    assert keys == {"gemini": "canary-own", "openai": "canary-openai", "deepseek": "canary-deepseek"}
    assert settings.providers["openai"].base_url == "http://127.0.0.1:9/v1"
    assert settings.providers["local"].kind == "openai"
    assert "canary" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[providers.local]\nbase_url = 'http://x'", r"'local' needs a 'kind'; most servers speak openai"),
        ("[providers.mistrl]\napi_key = 'canary'", r"'mistrl' needs a 'kind'; .*, closest known name: mistral"),
        (
            "[providers.x]\nkind = 'deepsek'",
            r"the 'kind' of 'x', 'deepsek', is not known, closest known name: deepseek",
        ),
        ("[providers.x]\nkind = 'grok'", "closest known name: xai"),
        ("[providers.local]\nkind = 'openai'", r"'local' needs a 'base_url'"),
        ("[providers.vllm]\napi_key = 'canary'", r"'vllm' needs a 'base_url'"),
        ("[providers.scripted]\nkind = 'openai'\nbase_url = 'http://x'", "cannot be the name of a provider"),
        ("[providers.openai]\nbase_url = 'localhost'", "must begin with http:// or https://"),
        ("[providers.gemini]\napi_key = 'canary'\nurl = 1", r"unknown setting 'providers\.gemini\.url'"),
    ],
)
def test_a_fault_in_a_provider_is_named_and_its_key_is_not(folder: Path, text: str, message: str) -> None:
    (folder / "corral.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        Settings.load()
    assert "canary" not in str(caught.value)
