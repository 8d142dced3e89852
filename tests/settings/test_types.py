"""Which values a file may hold, and what they become."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from milepost.app.database import store_url_of
from milepost.core.errors import BadConfiguration
from milepost.settings.load import load, load_or_default, moved_keys
from milepost.settings.model import RetrySettings, Settings, SyncSettings
from milepost.settings.types import format_duration, parse_duration, reached_at
from milepost.settings.yaml import substitute
from milepost.stores.url import StoreUrl


def loaded(file: Path, text: str, **environment: str) -> Settings:
    file.write_text(text)
    return load(file, environment)


def refused(file: Path, text: str, **environment: str) -> str:
    file.write_text(text)
    with pytest.raises(BadConfiguration) as error:
        load(file, environment)
    return str(error.value).replace(str(file), "config.yaml")


REAL = "  access_token: x\nsource: {kind: facebook}"
"""Ends the list of pages, and the file."""


class TestBounds:
    @pytest.mark.parametrize(
        ("key", "inside", "outside"),
        [
            ("sync.batch_size", "1 200", "0 201"),
            ("sync.messages_per_conversation", "0 20", "-1 21"),
            ("sync.max_batches_per_run", "1 1000000", "0 1000001"),
            ("sync.concurrency", "1 1000", "0 1001"),
            ("sync.events_chunk_size", "1 10000", "0 10001"),
            ("sync.interval", "1s 30d", "999ms 31d 0"),
            ("sync.max_run_duration", "1s 30d", "0 31d"),
            ("sync.watermark_overlap", "0 30d", "-1s 31d"),
            ("sync.full_sweep_interval", "0 365d", "-1 366d"),
            ("source.calls_per_second", "0 1000 0.5", "-0.5 1000.5"),
            ("source.request_timeout", "100ms 10m", "0 11m"),
            ("source.rate_limit_floor", "100ms 1d", "99ms 2d"),
            ("retry.attempts", "1 100", "0 101"),
            ("retry.base_delay", "1ms 32s", "0 2h"),
            ("retry.max_delay", "2s 1d", "0 2d"),
        ],
    )
    def test_the_lowest_and_the_highest_value_are_allowed_and_nothing_beyond(
        self, file: Path, key: str, inside: str, outside: str
    ) -> None:
        section, name = key.split(".")
        for value in inside.split():
            loaded(file, f"{section}:\n  {name}: {value}")
        for value in outside.split():
            assert f"config.yaml:2: {key}: found {value}" in refused(file, f"{section}:\n  {name}: {value}").replace(
                '"', ""
            )

    @pytest.mark.parametrize("value", ["'50'", "50.0", "true", "[50]", "{}", "fifty", "1e2", ".inf", ""])
    def test_a_whole_number_is_nothing_else(self, file: Path, value: str) -> None:
        assert "allowed: a whole number from 1 to 200" in refused(file, f"sync:\n  batch_size: {value}")

    @pytest.mark.parametrize("value", [".inf", ".nan", "true", "'2'", ""])
    def test_a_pace_is_a_finite_number(self, file: Path, value: str) -> None:
        assert "allowed: a number from 0 to 1000" in refused(file, f"source:\n  calls_per_second: {value}")

    @pytest.mark.parametrize("value", ["300", "300.0", "true", "5:00", "five minutes", ""])
    def test_a_duration_needs_its_unit(self, file: Path, value: str) -> None:
        assert "allowed: a duration from 1s to 30d" in refused(file, f"sync:\n  interval: {value}")

    def test_durations_become_seconds(self, file: Path) -> None:
        sync = loaded(file, "sync:\n  interval: 4.5m\n  full_sweep_interval: 0\n  max_run_duration: 1h").sync
        assert (sync.interval_seconds, sync.full_sweep_interval_seconds, sync.max_run_duration_seconds) == (
            270,
            0,
            3600,
        )

    def test_the_greatest_delay_is_not_below_the_first_even_by_default(self, file: Path) -> None:
        text = "retry:\n  base_delay: 1m"
        expected = "config.yaml:1: retry.max_delay: found 32s; allowed: at least retry.base_delay, which is 1m"
        assert refused(file, text) == expected
        assert loaded(file, f"{text}\n  max_delay: 1m").retry.max_delay_seconds == 60


class TestText:
    @pytest.mark.parametrize(
        "url",
        [
            "https://graph.facebook.com",
            "https://h:8443/x",
            "http://127.0.0.1:9",
            "http://[::1]:9",
            "https://xn--fa-hia.de.",
        ],
    )
    def test_a_safe_base_url_is_accepted(self, file: Path, url: str) -> None:
        assert loaded(file, f"source:\n  base_url: {url}/").source.base_url == url

    @pytest.mark.parametrize(
        "url",
        [
            "http://graph.facebook.com",
            "http://127.0.0.1.example.com",
            "https://",
            "graph.facebook.com",
            "https://me:hidden@graph.facebook.com",
            "https://graph.facebook.com/?access_token=hidden",
            "https://graph.facebook.com/#hidden",
            "https://graph.facebook.com:99999",
            "https://graph.facebook.com/a b",
            "https://[::1",
            "ftp://graph.facebook.com",
            "https://graph..facebook.com",
            f"https://{'g' * 64}.com",
            "https://xn--zzzzzz.com",
            "https://xn--a.com",
        ],
    )
    def test_an_unsafe_base_url_is_refused(self, file: Path, url: str) -> None:
        text = refused(file, f'source:\n  base_url: "{url}"')
        assert "source.base_url: found " in text
        assert "hidden" not in text

    @pytest.mark.parametrize(
        "written", [r'"Caf\u00e9 \ud83c\udf70"', r'"Caf\u00e9 \U0001f370"', "Café 🍰", r'"Caf\u00e9 ${CAKE}"']
    )
    def test_a_character_may_be_written_as_json_spells_it(self, file: Path, written: str) -> None:
        settings = loaded(file, f"pages:\n- id: '1'\n  name: {written}\n{REAL}", CAKE="🍰")
        assert settings.pages[0].name == "Café 🍰"

    @pytest.mark.parametrize("written", [r'"\ud83c"', r'"\udf70\ud83c"', "${NOT_UTF_8}", "${NOT_UTF_8:-x}", r'"a\0"'])
    def test_text_that_no_database_takes_is_refused(self, file: Path, written: str) -> None:
        text = refused(file, f"pages:\n- id: '1'\n  name: {written}\n{REAL}", NOT_UTF_8="Caf\udce9")
        assert text.startswith("config.yaml:3: pages[0].name: found ")

    def test_a_path_with_a_nul_is_refused(self, file: Path) -> None:
        assert "store.url: found the character NUL" in refused(file, r'store: {url: "sqlite:///a\0.db"}')

    @pytest.mark.parametrize("version", ["v26.0", "v100.12"])
    def test_a_version_is_accepted(self, file: Path, version: str) -> None:
        assert loaded(file, f"source: {{version: {version}}}").source.version == version

    @pytest.mark.parametrize("version", ["26.0", "v26", "V26.0", "v26.0/x", "'v26.0\\n'", '"v26.0\\n"', "v٢٦.0", "''"])
    def test_other_versions_are_refused(self, file: Path, version: str) -> None:
        assert "allowed: a version of the Graph API" in refused(file, f"source:\n  version: {version}")

    def test_a_store_is_a_file_relative_or_absolute(self, file: Path) -> None:
        assert store_url_of(loaded(file, "store: {url: 'sqlite:///a/b.db'}")).file == file.parent / "a/b.db"
        assert store_url_of(loaded(file, "store: {url: 'sqlite:////var/b.db'}")).file == Path("/var/b.db")

    @pytest.mark.parametrize(
        "url",
        [
            "sqlite://",
            "sqlite:///",
            "sqlite:///:memory:",
            "sqlite:///a/",
            "sqlite:///a?mode=memory",
            "milepost.db",
            "mysql://me:hidden@host/x",
        ],
    )
    def test_other_stores_are_refused(self, file: Path, url: str) -> None:
        text = refused(file, f"store:\n  url: '{url}'")
        assert "store.url: found " in text
        assert "hidden" not in text

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://milepost@db.example/milepost",
            "postgresql://db.example:5433/milepost",
            "postgresql://postgres.project@pooler.example:6543/postgres?sslmode=verify-full",
            "postgresql://milepost@/milepost?host=/run/postgresql",
            "postgresql://milepost@[::1]:5432/milepost",
            "postgresql://milepost@one.example:5432,two.example/milepost?target_session_attrs=read-write",
        ],
    )
    def test_a_store_is_a_postgresql_database(self, file: Path, url: str) -> None:
        store_url = store_url_of(loaded(file, f"store:\n  url: '{url}'\n  password: hidden"))
        assert store_url == StoreUrl(url, "hidden", "milepost", is_pooled=False, views="")
        assert store_url.file is None
        assert "hidden" not in repr(store_url)

    def test_a_postgresql_database_has_a_schema_a_pooler_and_views(self, file: Path) -> None:
        text = "store: {url: 'postgresql://me@db/x', schema: inbox, pooler: transaction, views: public}"
        store_url = store_url_of(loaded(file, text))
        assert store_url == StoreUrl("postgresql://me@db/x", "", "inbox", is_pooled=True, views="public")

    @pytest.mark.parametrize("name", ["Inbox", "pg_inbox", "1st", "a-b", "a b", "é", "x" * 64])
    def test_a_schema_has_a_plain_name(self, file: Path, name: str) -> None:
        for key in ("schema", "views"):
            assert f"store.{key}: found " in refused(file, f"store: {{{key}: '{name}'}}")
        assert "store.schema: found " in refused(file, "store: {schema: ''}")

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("schema=inbox", "schema cannot be in the URL any more; remove it there and write store.schema: inbox"),
            (
                "sslmode=require&pooler=transaction&views=public",
                (
                    "pooler and views cannot be in the URL any more; "
                    "remove them there and write store.pooler: transaction, store.views: public"
                ),
            ),
            (
                "schema=a_secret_that_somebody_pasted",
                "schema cannot be in the URL any more; remove it there and write store.schema: …",
            ),
        ],
    )
    def test_what_was_a_parameter_of_the_url_is_refused_with_the_key_to_write(
        self, file: Path, query: str, expected: str
    ) -> None:
        text = refused(file, f"store:\n  url: postgresql://me@db/x?{query}")
        assert text == f"config.yaml:2: store.url: {expected}"

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://me:hidden@db/x",
            "postgresql://me@db/x?password=hidden",
            "postgresql://me@db/x?sslpassword=hidden",
            "postgresql://me@db",
            "postgresql://me@db/",
            "postgresql://me@db/x/y",
            "postgresql://me@db:0/x",
            "postgresql://me@db:65536/x",
            "postgresql://me@one:5432,two:99999/x",
            "postgresql://me@db/x?port=five",
            "postgresql://me@db/%00",
            "postgresql://me@db/100%",
            "postgresql://me@db/x?sslmode=on",
            "postgresql://me@db/x?options=-c%20a=b",
            "postgres://me@db/x",
        ],
    )
    def test_other_postgresql_urls_are_refused(self, file: Path, url: str) -> None:
        text = refused(file, f"store:\n  url: '{url}'")
        assert "store.url: found " in text
        assert "hidden" not in text

    @pytest.mark.parametrize(
        ("listen", "host", "port"),
        [("127.0.0.1:9464", "127.0.0.1", 9464), ("localhost:0", "localhost", 0), ("'[::1]:80'", "::1", 80)],
    )
    def test_loopback_addresses_need_no_token(self, file: Path, listen: str, host: str, port: int) -> None:
        http = loaded(file, f"http: {{listen: {listen}}}" if "[" in listen else f"http:\n  listen: {listen}").http
        assert (http.host, http.port) == (host, port)

    @pytest.mark.parametrize(
        "listen",
        [
            "9464",
            ":9464",
            "127.0.0.1",
            "'127.0.0.1:'",
            "::1:80",
            "'[1.2.3.4]:80'",
            "a:65536",
            "a:-1",
            "a b:1",
            "a..b:1",
        ],
    )
    def test_other_addresses_are_refused(self, file: Path, listen: str) -> None:
        assert "allowed: host:port" in refused(file, f"http:\n  listen: {listen}")

    @pytest.mark.parametrize("origin", ["https://crm.example", "http://localhost:3000", "'http://[::1]:3000'"])
    def test_an_origin_is_as_a_browser_sends_it(self, file: Path, origin: str) -> None:
        assert loaded(file, f"http:\n  allowed_origins: [{origin}]").http.allowed_origins == (origin.strip("'"),)

    @pytest.mark.parametrize(
        "origin",
        ["'*'", "'null'", "crm.example", "https://crm.example/", "https://CRM.example", "https://crm.example:443"],
    )
    def test_what_no_browser_sends_as_an_origin_is_refused(self, file: Path, origin: str) -> None:
        assert "allowed: a list of origins" in refused(file, f"http:\n  allowed_origins: [{origin}]")

    @pytest.mark.parametrize("listen", ["0.0.0.0:9464", "'[::]:9464'", "milepost.example:80", "127.0.0.1.example:80"])
    def test_an_address_open_to_others_demands_a_long_token(self, file: Path, listen: str) -> None:
        assert "http.token: found none; allowed: a token of 16 characters" in refused(
            file, f"http:\n  listen: {listen}"
        )
        text = refused(file, f"http:\n  listen: {listen}\n  token: fifteen-letters")
        assert "config.yaml:3: http.token: found a shorter one" in text
        assert "fifteen-letters" not in text
        assert loaded(file, f"http:\n  listen: {listen}\n  token: sixteen--letters").http.token

    @pytest.mark.parametrize("section", ["http:", "http:\n  listen: 127.0.0.1:9464"])
    def test_a_token_that_can_be_guessed_is_refused_behind_a_proxy_of_this_machine_as_well(
        self, file: Path, section: str
    ) -> None:
        text = refused(file, f"{section}\n  token: fifteen-letters")
        assert "http.token: found a shorter one; allowed: a token of 16 characters or more, as it must not be" in text
        assert loaded(file, f"{section}\n  token: sixteen--letters").http.token

    def test_the_choices_of_log_are_checked(self, file: Path) -> None:
        assert loaded(file, "log: {format: json, level: warning}").log.level == "warning"
        assert 'log.level: found "loud"; allowed: debug or info or warning or error' in refused(
            file, "log:\n  level: loud"
        )


class TestPages:
    def test_an_id_is_text_and_an_error_about_a_number_asks_for_quotes(self, file: Path) -> None:
        text = "config.yaml:2: pages[0].id: found 9007199254740993; allowed: the digits of the id; write it in quotes:"
        assert refused(file, f"pages:\n- id: 9007199254740993\n{REAL}").startswith(text)
        assert loaded(file, f"pages:\n- id: '9007199254740993'\n{REAL}").pages[0].id == "9007199254740993"
        for bad in ("'12a'", "''", "'-1'", "'1\n'", "'٣'"):
            assert "pages[0].id: found " in refused(file, f"pages:\n- id: {bad}")

    def test_a_page_is_listed_once(self, file: Path) -> None:
        token = "access_token: x"
        text = f"pages:\n- {{id: '1', {token}}}\n- {{id: '2', {token}}}\n- {{id: '1', {token}}}\n- {{id: '1', {token}}}"
        text += "\nsource: {kind: facebook}"
        assert refused(file, text).splitlines() == [
            "config.yaml:4: pages[2].id: pages[0] has this id, too; allowed: each page once",
            "config.yaml:5: pages[3].id: pages[0] has this id, too; allowed: each page once",
        ]

    @pytest.mark.parametrize("platforms", ["[]", "[messenger, messenger]", "messenger", "", "{messenger: 1}"])
    def test_platforms_are_some_of_the_two(self, file: Path, platforms: str) -> None:
        text = refused(file, f"pages:\n- id: '1'\n  platforms: {platforms}\n{REAL}")
        assert text.startswith("config.yaml:3: pages[0].platforms: found ")

    def test_a_wrong_platform_is_named_by_its_place_and_line(self, file: Path) -> None:
        text = f"pages:\n- id: '1'\n  platforms:\n  - messenger\n  - whatsapp\n{REAL}"
        expected = 'config.yaml:5: pages[0].platforms[1]: found "whatsapp"; allowed: [messenger], [instagram] or'
        assert refused(file, text).startswith(expected)

    def test_the_simulator_needs_neither_pages_nor_tokens(self, file: Path) -> None:
        assert loaded(file, "source: {kind: simulator}").pages == ()
        assert loaded(file, "source: {kind: simulator, access_token: '', access_token_file: ''}\npages: []").pages == ()

    @pytest.mark.parametrize("source", ["source: {kind: simulator}", "source: {kind: '${KIND:-simulator}'}"])
    def test_the_simulator_refuses_pages(self, file: Path, source: str) -> None:
        text = refused(file, f"{source}\npages:\n- id: '1'\n  access_token: x")
        assert text.startswith("config.yaml:2: pages: source.kind is simulator, whose world brings pages of its own; ")
        assert "set source.kind: facebook" in text

    @pytest.mark.parametrize("source", ["", "source:", "source: {version: v26.0}"])
    def test_pages_with_the_kind_forgotten_are_refused_with_that_reason(self, file: Path, source: str) -> None:
        text = refused(file, f"pages:\n- id: '1'\n  access_token: x\n{source}")
        assert "config.yaml:1: pages: source.kind is not set: it is simulator, " in text

    @pytest.mark.parametrize("key", ["access_token", "access_token_file"])
    def test_the_simulator_refuses_a_real_token(self, file: Path, key: str) -> None:
        file.with_name("token").write_text("x")
        text = refused(file, f"source:\n  discover_pages: true\n  {key}: {file.parent}/token")
        assert text.startswith("config.yaml:3: source.access_token: source.kind is not set: it is simulator, ")

    @pytest.mark.parametrize("pages", ["", "pages: []"])
    def test_facebook_needs_a_page(self, file: Path, pages: str) -> None:
        assert "pages: missing; allowed: one page or more" in refused(file, f"source: {{kind: facebook}}\n{pages}")

    def test_facebook_needs_a_token_for_each_page(self, file: Path) -> None:
        text = (
            "source: {kind: facebook}\npages:\n- id: '1'\n- id: '2'\n  access_token: x\n- id: '3'\n  access_token: ''"
        )
        assert [line.split(";")[0] for line in refused(file, text).splitlines()] == [
            "config.yaml:3: pages[0].access_token: missing",
            "config.yaml:7: pages[2].access_token: missing",
        ]

    @pytest.mark.parametrize("true", ["true", "${X:-true}"])
    def test_discovery_needs_a_token_and_no_pages(self, file: Path, true: str) -> None:
        expected = "config.yaml:1: source.access_token: missing; allowed: access_token or access_token_file"
        assert refused(file, f"source:\n  kind: facebook\n  discover_pages: {true}").startswith(expected)
        settings = loaded(file, f"source:\n  kind: facebook\n  access_token: x\n  discover_pages: {true}")
        assert (settings.source.discover_pages, settings.pages) == (True, ())

    @pytest.mark.parametrize("value", ["true", "${X:-true}"])
    def test_the_place_that_discovery_had_before_is_still_read(self, file: Path, value: str) -> None:
        settings = loaded(file, f"source: {{kind: facebook, access_token: x}}\ndiscover_pages: {value}")
        assert settings.source.discover_pages
        assert moved_keys(file, {}) != ()

    def test_a_wrong_value_in_the_old_place_is_refused_with_its_line(self, file: Path) -> None:
        expected = 'config.yaml:2: source.discover_pages: found "maybe"; allowed: true or false'
        assert expected in refused(file, "source: {kind: facebook, access_token: x}\ndiscover_pages: maybe")

    def test_discovery_in_both_places_is_refused(self, file: Path) -> None:
        expected = "config.yaml:2: discover_pages: moved into source, where it is given as well; remove it here"
        assert expected in refused(
            file, "source: {kind: facebook, access_token: x, discover_pages: true}\ndiscover_pages: true"
        )


class TestEnvironment:
    def test_a_value_without_quotes_has_the_type_that_its_key_wants(self, file: Path) -> None:
        text = """
            source: {discover_pages: "${FLAG}", calls_per_second: "${QUOTED:-x}"}
            """
        assert 'source.calls_per_second: found "x"' in refused(file, text, FLAG="false")
        settings = loaded(
            file,
            "source:\n  discover_pages: ${FLAG}\n  calls_per_second: ${PACE}\n"
            "  app_secret: ${DIGITS}\n  kind: ${KIND}\n"
            "sync:\n  batch_size: ${SIZE:-50}\n  interval: ${N}m\n  full_sweep_interval: ${ZERO}\n"
            "pages:\n- id: ${DIGITS}\n  name: ${DIGITS}\n  platforms: ['${P}']\n  access_token: x",
            FLAG="false",
            PACE="0.5",
            DIGITS="0123",
            KIND="facebook",
            N="2",
            ZERO="0",
            P="messenger",
        )
        assert (settings.source.discover_pages, settings.source.calls_per_second) == (False, 0.5)
        assert settings.source.app_secret.get_secret_value() == "0123"
        assert (settings.sync.batch_size, settings.sync.interval_seconds) == (50, 120)
        assert settings.sync.full_sweep_interval_seconds == 0
        page = settings.pages[0]
        assert (page.id, page.name, page.platforms) == ("0123", "0123", ("messenger",))
        plain = (
            page.id,
            page.name,
            page.platforms[0],
            settings.source.kind,
            settings.source.app_secret.get_secret_value(),
        )
        assert {type(text) for text in plain} == {str}

    def test_a_quoted_number_stays_text(self, file: Path) -> None:
        assert "sync.batch_size: found 50 (from ${N})" in refused(file, 'sync:\n  batch_size: "${N}"', N="50")

    def test_every_unset_variable_is_reported_with_its_line(self, file: Path) -> None:
        text = "store:\n  url: sqlite:///${DIR}/x.db\npages:\n- id: '1'\n  access_token: ${BAKERY_TOKEN}\n"
        text += "source: {kind: facebook}\n"
        assert refused(file, text).splitlines() == [
            "config.yaml:2: store.url: environment variable DIR is not set",
            "config.yaml:5: pages[0].access_token: environment variable BAKERY_TOKEN is not set",
        ]

    def test_comments_and_keys_are_left_alone(self, file: Path) -> None:
        assert loaded(file, "# ${NOT_SET}\nlog: {} # ${NOT_SET}") == loaded(file, "{}")
        assert "unknown key" in refused(file, "'${N}': 1", N="log")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a${A}b${B:-c}", "a1bc"),
            ("${EMPTY:-d}|${EMPTY}", "d|"),
            ("$${A} $A $$ {A}", "${A} $A $$ {A}"),
            ("$$${A}", "$${A}"),
            ("${NESTED}", "${A}"),
            ("${X:-}", ""),
            ("${X:-a:-b $A}", "a:-b $A"),
        ],
    )
    def test_references_are_replaced_once_from_left_to_right(self, text: str, expected: str) -> None:
        assert substitute(text, {"A": "1", "EMPTY": "", "NESTED": "${A}"})[0] == expected

    @pytest.mark.parametrize("text", ["${", "${A", "${}", "${1A}", "${A-b}", "${A:b}", "${ A }"])
    def test_half_a_reference_is_refused(self, file: Path, text: str) -> None:
        assert "log.level: ${ begins ${NAME} or ${NAME:-default}" in refused(file, f"log:\n  level: '{text}'", A="1")

    @hypothesis_settings(derandomize=True)
    @given(st.text())
    def test_any_text_can_be_written_by_escaping(self, text: str) -> None:
        assert substitute(text.replace("${", "$${"), {})[0] == text

    @hypothesis_settings(derandomize=True)
    @given(before=st.text(alphabet="ab:- ", max_size=5), value=st.text(), after=st.text(alphabet="ab:- }", max_size=5))
    def test_any_value_of_a_variable_arrives_as_it_is(self, before: str, value: str, after: str) -> None:
        assert substitute(f"{before}${{V}}{after}", {"V": value}) == (f"{before}{value}{after}", ("V",))

    @hypothesis_settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(size=st.integers(-10, 300))
    def test_a_number_from_the_environment_means_what_it_would_if_written(self, file: Path, size: int) -> None:
        for text, environment in (
            (f"sync:\n  batch_size: {size}", {}),
            ("sync:\n  batch_size: ${N}", {"N": str(size)}),
        ):
            if 1 <= size <= 200:
                assert loaded(file, text, **environment).sync.batch_size == size
            else:
                assert f"sync.batch_size: found {size}" in refused(file, text, **environment)


class TestSettings:
    def test_settings_are_frozen_and_made_in_the_words_of_the_file(self) -> None:
        sync = SyncSettings(interval="90s", batch_size=7)
        assert (sync.interval_seconds, sync.batch_size) == (90, 7)
        with pytest.raises(ValidationError):
            sync.batch_size = 8  # type: ignore[misc]  # that it is frozen is what is tested
        with pytest.raises(ValidationError):
            RetrySettings(base_delay="2s", max_delay="1s")

    def test_without_a_file_the_built_in_settings_apply(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert load_or_default(None, {}) == Settings()
        (tmp_path / "config.yaml").write_text("sync: {batch_size: 7}")
        assert load_or_default(None, {}).sync.batch_size == 7

    def test_a_named_file_must_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(BadConfiguration, match=r"no\.yaml: there is no such file"):
            load_or_default(tmp_path / "no.yaml", {})

    def test_a_link_to_nowhere_is_not_taken_for_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "config.yaml").symlink_to("gone.yaml")
        with pytest.raises(BadConfiguration, match="there is no such file"):
            load_or_default(None, {})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104  (only written down)
        ("::", "::1"),
        ("::1", "::1"),
        ("milepost.example", "milepost.example"),
    ],
)
def test_a_daemon_that_listens_on_all_addresses_is_reached_on_loopback(host: str, expected: str) -> None:
    assert reached_at(host) == expected


# --- durations --------------------------------------------------------------------------------------------------------


UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("250ms", 0.25),
        ("270s", 270.0),
        ("4.5m", 270.0),
        ("1h", 3600.0),
        ("7d", 604800.0),
        ("0", 0.0),
        ("0s", 0.0),
        (0, 0.0),
    ],
)
def test_the_contracts_examples_are_read(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        "",
        "5",
        "s",
        "-1s",
        "+1s",
        "1 s",
        " 1s",
        "1s ",
        "1s\n",
        "1S",
        "1min",
        "1h30m",
        "1e3s",
        ".5s",
        "5.s",
        "٣s",
        "infs",
        "nans",
    ],
)
def test_other_text_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(written)


@pytest.mark.parametrize("written", [5, 5.0, 0.0, True, False, None, (), {}])
def test_only_a_whole_zero_goes_without_a_unit(written: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(written)


@hypothesis_settings(derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)))
def test_what_is_formatted_is_read_back_the_same(number: int, unit: str) -> None:
    seconds = parse_duration(f"{number}{unit}")
    assert seconds == pytest.approx(number * UNITS[unit])
    assert parse_duration(format_duration(seconds)) == seconds


@hypothesis_settings(derandomize=True)
@given(st.text(max_size=8))
def test_any_text_is_a_finite_duration_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds < 10**18


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0"), (0.25, "250ms"), (90.0, "90s"), (300.0, "5m"), (3600.0, "1h"), (604800.0, "7d"), (1.5, "1500ms")],
)
def test_a_duration_is_formatted_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
