"""The shipped config.yaml and docs/configuration.md against the model."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from docs.generate import written
from milepost.settings.load import load
from milepost.settings.model import DeliverySettings, PageSettings, Section, Settings, key_of, section_in

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "config.yaml").read_text()
DOCUMENTATION = (ROOT / "docs" / "configuration.md").read_text()
WHSEC = "whsec_YS1zZWNyZXQtZm9yLXRoZS1jcm0tcmVjZWl2ZXI="
KEY_ROW = re.compile(r"^\| `([a-z_.\[\]]+)` \| [^|]+ \| ?([^|]*?) ?\| ([^|]+) \|[^|]+\| [^|]+ \|$", re.MULTILINE)


def every_key(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        yield prefix + key_of(name), field
    for name, field in section.model_fields.items():
        if inner := section_in(field):
            yield from every_key(inner, f"{prefix}{name}{'' if field.annotation is inner else '[]'}.")


def with_facebook_block(text: str) -> str:
    """Return the shipped file as its comments say: kind changed, lines without a single space after # uncommented."""
    return re.sub(r"^#(?! \S|$)", "", text.replace("kind: simulator ", "kind: facebook "), flags=re.MULTILINE)


def documented_defaults() -> dict[str, list[str]]:
    """Return the lines `key: default` of every section of the documentation."""
    sections = defaultdict(list)
    for key, default, _ in KEY_ROW.findall(DOCUMENTATION):
        section, _, name = key.rpartition(".")
        if default.startswith("`"):
            sections[section].append(f"{name}: {default.strip('`')}")
    return sections


@pytest.fixture(autouse=True)
def _beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a file is relative to the configuration's folder, which is this one then."""
    monkeypatch.chdir(tmp_path)


def loaded(text: str, environment: Mapping[str, str] = MappingProxyType({})) -> Settings:
    file = Path("config.yaml")
    file.write_text(text)
    return load(file, environment)


def test_the_shipped_file_is_the_defaults() -> None:
    assert loaded(SHIPPED) == Settings()


def test_the_shipped_file_shows_every_key() -> None:
    last_words = {key.rpartition(".")[2] for key, _ in every_key(Settings)}
    assert last_words - set(re.findall(r"\w+", SHIPPED)) == set()


def test_the_facebook_block_of_the_shipped_file_loads_when_uncommented() -> None:
    settings = loaded(with_facebook_block(SHIPPED), {"BAKERY_TOKEN": "EAAB-made-up"})
    assert settings.source.kind == "facebook"
    assert settings.store.url == "sqlite:///milepost.db"
    assert settings.pages == (
        PageSettings(
            id="1234567890",
            name="Corner Bakery",
            platforms=("messenger", "instagram"),
            access_token=SecretStr("EAAB-made-up"),
            instagram_account_id="17841400000000000",
        ),
    )


def test_the_documentation_is_what_the_model_says() -> None:
    """`python docs/generate.py` writes it anew."""
    assert written(DOCUMENTATION) == DOCUMENTATION
    assert [key for key, _, _ in KEY_ROW.findall(DOCUMENTATION)] == [key for key, _ in every_key(Settings)]


def test_the_documented_defaults_are_the_defaults() -> None:
    sections = documented_defaults()
    page, delivery, top = sections.pop("pages[]"), sections.pop("deliveries[]"), sections.pop("")
    text = "\n".join([*top, *(f"{name}:\n  " + "\n  ".join(lines) for name, lines in sections.items())])
    assert loaded(text) == Settings()
    page = [line for line in page if not line.startswith("access_token:")]
    text = 'source: {kind: facebook}\npages:\n- id: "1"\n  access_token: x\n  ' + "\n  ".join(page)
    assert loaded(text).pages == (PageSettings(id="1", access_token=SecretStr("x")),)
    wanted = {"name": "crm", "url": "https://crm.example/hooks", "secret": WHSEC}
    text = "deliveries:\n- " + "\n  ".join([*(f"{key}: {value}" for key, value in wanted.items()), *delivery])
    assert loaded(text).deliveries == (DeliverySettings.model_validate(wanted),)


def test_every_key_but_sections_ids_and_the_optional_account_has_a_documented_default() -> None:
    without = {key for key, default, _ in KEY_ROW.findall(DOCUMENTATION) if not default.startswith("`")}
    sections = {"store", "source", "sync", "retry", "webhooks", "notify", "http", "log"}
    items = {"pages[].id", "pages[].instagram_account_id"}
    assert without == sections | items | {f"deliveries[].{key}" for key in ("name", "url", "secret")}
