"""Where secrets come from, and that none is ever shown."""

import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from milepost.core.errors import BadConfiguration
from milepost.settings.load import load, secret_report
from milepost.settings.model import Section, Settings, SourceSettings, section_in
from milepost.settings.secrets import SecretOrigin, secret_files, secrets

SECRET = "EAAB-made-up-secret"


def loaded(file: Path, text: str, **environment: str) -> Settings:
    file.write_text(text)
    return load(file, environment)


def refused(file: Path, text: str, **environment: str) -> str:
    """Return all that the error may carry to a terminal or a log: its text, its causes and their contexts."""
    file.write_text(text)
    with pytest.raises(BadConfiguration) as error:
        load(file, environment)
    assert error.value.__cause__ is None
    assert error.value.__context__ is None or error.value.__suppress_context__
    return "".join(traceback.format_exception(error.value, chain=True))


class TestFiles:
    @pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
    def test_a_secret_is_read_from_a_file_without_its_line_end(self, file: Path, ending: str) -> None:
        token = file.with_name("token")
        token.write_text(SECRET + ending)
        text = (
            "source: {kind: facebook, app_secret_file: '${D}/token', access_token_file: '${D}/token'}\n"
            "http: {token_file: '${D}/token'}\n"
            "pages: [{id: '1', access_token_file: '${D}/token'}]"
        )
        settings = loaded(file, text, D=str(file.parent))
        assert secrets(settings) == (SECRET, SECRET, SECRET, SECRET)
        assert settings.pages[0].access_token_file == str(token)

    def test_the_path_of_a_file_is_relative_to_the_configuration(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (file.parent / "secrets").mkdir()
        (file.parent / "secrets" / "token").write_text(SECRET)
        monkeypatch.chdir("/")
        settings = loaded(file, "http: {token_file: secrets/token}")
        assert secrets(settings) == (SECRET,)
        assert secret_files(settings) == (file.parent / "secrets" / "token",)
        report = {entry.key: entry.origin for entry in secret_report(file, {})}
        assert report["http.token"] == f"file {file.parent}/secrets/token"

    def test_the_paths_of_a_configuration_from_a_descriptor_are_relative_to_the_current_directory(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`milepost run -c <(envsubst < template)` would otherwise put its database into /dev/fd."""
        file.write_text("http: {token_file: token}")
        file.with_name("token").write_text(SECRET)
        monkeypatch.chdir(file.parent)
        with file.open() as opened:
            settings = load(Path(f"/dev/fd/{opened.fileno()}"), {})
        assert secret_files(settings) == (Path("token"),)
        assert settings.store.url == "sqlite:///simulated.db"

    def test_an_empty_key_or_file_key_counts_as_not_given(self, file: Path) -> None:
        file.with_name("token").write_text(SECRET)
        text = "http: {token: '', token_file: '${D}/token'}\nsource: {app_secret: x, app_secret_file: '${NOT_SET:-}'}"
        settings = loaded(file, text, D=str(file.parent))
        assert secrets(settings) == ("x", SECRET)

    @pytest.mark.parametrize("keys", ["notify: {urls_file: list}", "webhooks: {secrets_file: list}"])
    def test_a_file_of_blank_lines_is_no_empty_list(self, file: Path, keys: str) -> None:
        file.with_name("list").write_text("  \n \n")
        assert "list: is empty; it must hold the secret" in refused(file, keys)

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (None, "token: there is no such file"),
            (b"", "token: is empty; it must hold the secret"),
            (b"\n", "token: is empty; it must hold the secret"),
            (b"\xff", "token:1: is not UTF-8 text"),
            (b"x" * 20_000, "token: is larger than 16384 bytes"),
        ],
    )
    def test_an_unusable_secret_file_is_reported_once(self, file: Path, content: bytes | None, expected: str) -> None:
        if content is not None:
            file.with_name("token").write_bytes(content)
        text = f"source: {{kind: facebook}}\npages:\n- id: '1'\n  access_token_file: {file.parent}/token"
        text = refused(file, text)
        assert f"config.yaml:4: pages[0].access_token_file: {file.parent}/{expected}" in text
        assert text.count("pages[0]") == 1

    def test_a_directory_in_place_of_a_secret_file_is_refused(self, file: Path) -> None:
        assert "http.token_file: / is a directory" in refused(file, "http: {token_file: /}").replace("/:", "/")

    def test_a_path_with_a_nul_is_refused(self, file: Path) -> None:
        assert "http.token_file: " in refused(file, 'http: {token_file: "a\\0b"}')

    def test_the_content_of_a_file_is_reported_at_the_line_of_its_key(self, file: Path) -> None:
        file.with_name("token").write_text(f"{SECRET} {SECRET}")
        text = refused(file, f"http:\n  # a token\n  token_file: {file.parent}/token")
        assert "config.yaml:3: http.token: found a value that is not shown here; allowed: printable ASCII" in text
        assert SECRET not in text

    def test_both_forms_at_once_are_refused_whatever_is_in_the_file(self, file: Path) -> None:
        text = refused(file, f"http:\n  token: {SECRET}\n  token_file: /nonexistent")
        assert "config.yaml:3: http.token_file: given beside token; allowed: one of the two" in text
        assert SECRET not in text


class TestAppSecret:
    def test_the_environment_gives_the_app_secret_unless_the_file_does(self, file: Path) -> None:
        def app_secret(source: str) -> str:
            settings = loaded(file, f"source: {{{source}}}", MILEPOST_APP_SECRET=SECRET)
            return settings.source.app_secret.get_secret_value()

        assert app_secret("kind: simulator") == SECRET
        assert app_secret("app_secret: other") == "other"
        assert app_secret("app_secret: ''") == ""


class TestSilence:
    def test_no_setting_shows_a_secret_in_its_text(self, file: Path) -> None:
        text = f"source: {{kind: facebook, app_secret: {SECRET}, access_token: {SECRET}}}\nhttp: {{token: {SECRET}}}\n"
        settings = loaded(file, f"{text}pages: [{{id: '1', access_token: {SECRET}}}]")
        for text in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
            assert SECRET not in text

    @pytest.mark.parametrize("key", ["access_token", "acces_token", "id", "name", "platforms", "instagram_account_id"])
    @pytest.mark.parametrize("value", ["${T}", "'${T}'", "x${T}x", "['${T}']", "{'a': '${T}'}"])
    def test_a_secret_out_of_the_environment_is_not_shown_wherever_it_is_put(
        self, file: Path, key: str, value: str
    ) -> None:
        file.write_text(f"pages:\n- {key}: {value}\nsync: {{batch_size: 500}}")
        assert SECRET not in refused(file, file.read_text(), T=SECRET)

    @pytest.mark.parametrize(
        "value",
        [
            *(
                "*S",
                "&S",
                "!S",
                "!a!S",
                "!!S x",
                "!<S> x",
                "'S",
                '"S',
                "[S",
                "{S: 1",
                "S: x: y",
                "%S",
                "@S",
                "`S",
                "|S",
            ),
            *(
                '"\\S"',
                "'S' S",
                "${S",
                "S S",
                "- S",
                "? S",
                "{S: 1}",
                "[S]",
                ">\n    S",
                "S\n    S",
                "S\n  S",
                "!!int S",
            ),
        ],
    )
    def test_a_secret_that_yaml_trips_over_is_not_shown(self, file: Path, value: str) -> None:
        token = value.replace("S", SECRET)
        assert SECRET not in refused(file, f"http:\n  token: {token}\nsync: {{batch_size: 500}}")

    def test_a_token_in_place_of_an_id_is_cut_short(self, file: Path) -> None:
        token = "EAAB" + "q7" * 90
        text = refused(file, f"pages:\n- id: {token}")
        assert 'pages[0].id: found "EAABq7q7q7q7…"; allowed: ' in text
        assert token[:20] not in text

    @hypothesis_settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        prefix=st.text(alphabet="!&*%@`|>'\"[]#,:?-$ \tab", max_size=6),
        suffix=st.text(alphabet="!&*%@`|>'\"[]#,:?-$ \tab", max_size=6),
    )
    def test_no_punctuation_round_a_secret_gets_it_shown(self, file: Path, prefix: str, suffix: str) -> None:
        file.write_text(f"sync: {{batch_size: 500}}\nhttp:\n  listen: 0.0.0.0:1\n  token: {prefix}{SECRET}{suffix}\n")
        with pytest.raises(BadConfiguration) as error:
            load(file, {})
        assert SECRET not in str(error.value)


class TestReport:
    def test_the_report_names_the_origin_of_each_secret_and_never_its_value(self, file: Path) -> None:
        token = file.with_name("token")
        token.write_text(SECRET)
        token.chmod(0o600)
        file.write_text(
            f"""
source: {{kind: facebook, access_token: "${{A}}${{B:-x}}", app_secret: "${{C:-}}"}}
http: {{token: {SECRET}}}
pages:
- {{id: '1', access_token_file: {token}}}
- {{id: '2', access_token: "${{NONE:-fallback}}"}}
- {{id: '3'}}
"""
        )
        written = f"written in {file}"
        report = secret_report(file, {"A": SECRET})
        assert report == (
            SecretOrigin("source.access_token", "environment variable A"),
            SecretOrigin("source.app_secret", "not set"),
            SecretOrigin("http.token", written, "move it into the environment or a file: ${NAME}, or token_file"),
            SecretOrigin("pages[0].access_token", f"file {token}"),
            SecretOrigin(
                "pages[1].access_token",
                written,
                "move it into the environment or a file: ${NAME}, or access_token_file",
            ),
            SecretOrigin("pages[2].access_token", "not set"),
        )
        assert SECRET not in str(report)

    def test_the_report_warns_of_a_file_that_every_user_can_read(self, file: Path) -> None:
        token = file.with_name("token")
        token.write_text(SECRET)
        token.chmod(0o604)
        file.write_text(f"http: {{token_file: {token}}}")
        assert [entry.warning for entry in secret_report(file, {})] == [
            f"every user of this machine can read it: chmod o= {token}"
        ]

    def test_the_report_names_the_variable_that_supplies_the_app_secret_by_default(self, file: Path) -> None:
        file.write_text("source: {}")
        assert secret_report(file, {"MILEPOST_APP_SECRET": SECRET})[1] == SecretOrigin(
            "source.app_secret", "environment variable MILEPOST_APP_SECRET"
        )

    def test_the_report_has_each_secret_of_a_list(self, file: Path) -> None:
        file.write_text("webhooks: {secrets: ['${A}', plain]}")
        assert [(entry.key, entry.origin) for entry in secret_report(file, {"A": SECRET})][1:] == [
            ("webhooks.secrets[0]", "environment variable A"),
            ("webhooks.secrets[1]", f"written in {file}"),
        ]

    def test_a_file_of_several_secrets_has_one_on_each_line(self, file: Path) -> None:
        file.with_name("secrets").write_text("one\ntwo\n")
        file.write_text("webhooks: {secrets_file: secrets}")
        assert [each.get_secret_value() for each in load(file, {}).webhooks.secrets] == ["one", "two"]

    def test_a_wrong_list_of_secrets_is_not_shown(self, file: Path) -> None:
        text = refused(file, f"webhooks: {{secrets: {SECRET}}}")
        assert "webhooks.secrets" in text
        assert SECRET not in text

    def test_the_report_has_every_secret_of_the_model(self, file: Path) -> None:
        def secret_keys(section: type[Section], prefix: str) -> set[str]:
            fields = section.model_fields.items()
            own = {f"{prefix}{name}" for name, field in fields if "SecretStr" in repr(field.annotation)}
            for name, field in section.model_fields.items():
                if inner := section_in(field):
                    own |= secret_keys(inner, f"{prefix}{name}{'' if field.annotation is inner else '[0]'}.")
            return own

        sections = "store: {}\nsource: {}\nwebhooks: {}\nnotify: {}\nhttp: {}\n"
        file.write_text(f"{sections}pages: [{{id: '1'}}]\ndeliveries: [{{name: crm}}]")
        assert {entry.key for entry in secret_report(file, {})} == secret_keys(Settings, "")

    def test_redaction_gets_every_secret_that_is_set_and_no_empty_one(self) -> None:
        assert secrets(Settings()) == ()
        assert secrets(Settings(source=SourceSettings(app_secret=SecretStr("s")))) == ("s",)
