"""Bad configurations and bad databases: each is reported clearly, with the right exit code, and nothing is lost."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.binary import Ended, milepost
from kit.installation import Installation, page_section
from kit.needs import long_only, unprivileged
from kit.simulated import BICYCLES, frozen_world

PAGE = 'pages: [{id: "1", access_token: "EAAx"}]'

PAGES_WITHOUT_TOKENS = """\
source: {kind: facebook}
pages: [{id: "1"}, {id: "2", access_token: "${NOWHERE}"}, {id: "3", access_token_file: absent}]
"""

BAD_CONFIGURATIONS = {
    "no YAML": ("source: {kind: [facebook\n", ["config.yaml:2: not valid YAML"]),
    "no text": ("\x00\x01\x02", ["config.yaml:1: not valid YAML: control character"]),
    "wrong keys and values": (
        f"{PAGE}\nsync:\n  intervall: 5m\n  batch_size: many\n",
        [
            "config.yaml:3: sync.intervall: unknown key; did you mean interval?",
            'config.yaml:4: sync.batch_size: found "many"; allowed: a whole number from 1 to 200',
        ],
    ),
    "missing secrets": (
        PAGES_WITHOUT_TOKENS,
        [
            "config.yaml:2: pages[0].access_token: missing; allowed: access_token or access_token_file",
            "config.yaml:2: pages[1].access_token: environment variable NOWHERE is not set",
            "config.yaml:2: pages[2].access_token_file: absent: there is no such file",
        ],
    ),
}


def assert_reported(ended: Ended, code: int, *expected: str) -> None:
    assert ended.code == code, ended
    assert ended.stderr.startswith("milepost: "), ended
    assert [each for each in expected if each not in ended.stderr] == [], ended
    assert ended.stdout == "", ended


@pytest.fixture
def reachable() -> Iterator[Installation]:
    """Return an installation in a directory that everybody can reach."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        folder.chmod(0o777)
        yield Installation(folder)
        folder.chmod(0o777)


@pytest.mark.parametrize("kind", BAD_CONFIGURATIONS)
async def test_a_bad_configuration_is_reported_with_file_and_line(installation: Installation, kind: str) -> None:
    text, expected = BAD_CONFIGURATIONS[kind]
    installation.config.write_text(text)
    assert_reported(await installation.sync(), 78, *expected)
    assert not installation.database.exists()


async def test_a_configuration_that_is_missing_or_not_a_file_is_reported(installation: Installation) -> None:
    assert_reported(await installation.sync("-c", "absent.yaml"), 78, "absent.yaml: there is no such file")
    assert_reported(await installation.sync("-c", "."), 78, ".: is a directory, not a file")


async def test_a_configuration_without_read_permission_is_reported(reachable: Installation) -> None:
    reachable.config.write_text(PAGE)
    reachable.config.chmod(0o000)
    ended = await milepost(reachable.folder, "sync", user=unprivileged())
    assert_reported(ended, 78, "config.yaml: permission to read it is denied")


def directory(database: Path) -> None:
    database.mkdir()


def text_file(database: Path) -> None:
    database.write_text("Dear diary, today I was taken for a database. " * 100)


def of_a_newer_milepost(database: Path) -> None:
    Installation(database.parent).rows("INSERT INTO schema_migrations VALUES ('9999_flying', '2099-01-01')")


def corrupt(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[100:] = b"\xa5" * (len(content) - 100)
    database.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (directory, "cannot be used: unable to open database file"),
        (text_file, "the file is not a SQLite database: check store.url"),
        (of_a_newer_milepost, "is newer than this Milepost: its migrations include 9999_flying"),
        (corrupt, "restore the database from a backup"),
    ],
)
async def test_an_unusable_database_is_reported_and_left_unchanged(
    installation: Installation, spoil: Callable[[Path], None], expected: str
) -> None:
    database = installation.database
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        if spoil in (of_a_newer_milepost, corrupt):
            assert (await installation.sync()).code == 0
        spoil(database)
        before = database.read_bytes() if database.is_file() else None
        asked = simulator.requests.total
        assert_reported(await installation.sync(), 78, expected)
        assert simulator.requests.total == asked
        if before is not None:
            status = await milepost(installation.folder, "status")
            assert_reported(status, 78, expected)
            assert database.read_bytes() == before


async def test_a_database_in_a_missing_directory_is_reported(installation: Installation) -> None:
    installation.configure("http://127.0.0.1:1", page_section(BICYCLES), store={"url": "sqlite:///absent/milepost.db"})
    assert_reported(await installation.sync(), 78, "check store.url, that its directory exists")


@pytest.mark.parametrize("which", ["directory", *long_only("file")])
async def test_a_read_only_database_is_reported(reachable: Installation, which: str) -> None:
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        reachable.configure_for(simulator)
        assert (await milepost(reachable.folder, "sync", user=unprivileged())).code == 0
        before = reachable.copied()
        (reachable.database if which == "file" else reachable.folder).chmod(0o555)
        asked = simulator.requests.total
        ended = await milepost(reachable.folder, "sync", user=unprivileged())
        assert_reported(ended, 78, "Milepost must be able to write the database file and its directory")
        assert simulator.requests.total == asked
        reachable.folder.chmod(0o777)
        assert reachable.copied() == before
