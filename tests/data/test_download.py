import errno
import http.client
import ssl

import pytest

from rwp.data.download import checksum, download, obtain
from rwp.errors import UserError
from tests.data.samples import sha256

CONTENT = bytes(range(256)) * 5000
CHECK = checksum("sha256", sha256(CONTENT))


@pytest.fixture
def url(server):
    server.files["file.npz"] = CONTENT
    return server.url("file.npz")


def test_a_dropped_transfer_goes_on_where_it_broke_off(tmp_path, server, url):
    server.drop_after, server.drops = 300_000, 3
    download(url, tmp_path / "file.npz", CHECK)
    assert (tmp_path / "file.npz").read_bytes() == CONTENT
    starts = [asked for _, asked in server.requests]
    assert starts == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["file.npz"]


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("changed", [True, False])
def test_a_file_that_has_changed_meanwhile_starts_anew(
    tmp_path, server, url, monkeypatch, header, changed
):
    """No half of the one is put before a half of the other."""
    server.marks, server.drop_after, server.drops = {header: '"old"'}, 300_000, 1
    if changed:
        server.files["file.npz"] = CONTENT[::-1]
    monkeypatch.setattr("rwp.data.download._ATTEMPTS", 1)
    with pytest.raises(UserError, match="got 300000 bytes before it broke off"):
        download(url, tmp_path / "file.npz", CHECK)
    assert {path.name for path in tmp_path.iterdir()} == {"file.npz.part", "file.npz.part.state"}
    if changed:
        server.files["file.npz"], server.marks = CONTENT, {header: '"new"'}
    server.requests.clear()
    download(url, tmp_path / "file.npz", CHECK)
    assert server.requests == [("/file.npz", "bytes=300000-")]  # and not once more
    assert (tmp_path / "file.npz").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file.npz"]


def test_what_tells_a_file_apart_goes_with_it(tmp_path, server, url):
    server.files["file.npz"], server.marks = b"another release", {"ETag": '"1"'}
    for part in (b"", b"an"):
        (tmp_path / "file.npz.part").write_bytes(part)
        with pytest.raises(UserError, match=r"expected sha256"):
            download(url, tmp_path / "file.npz", CHECK)
        assert not list(tmp_path.iterdir())


BAD_RECORD = ssl.SSLError("bad record mac")
UNREACHABLE = OSError(errno.ENETUNREACH, "Network is unreachable")
RESPONSE, CONNECTION = http.client.HTTPResponse, http.client.HTTPConnection


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (RESPONSE, "read", BAD_RECORD),
        (RESPONSE, "read", OSError(errno.EHOSTUNREACH, "No route to host")),
        (RESPONSE, "read", UNREACHABLE),
        (RESPONSE, "begin", BAD_RECORD),  # before the first line of the answer
        (RESPONSE, "begin", UNREACHABLE),
        (CONNECTION, "connect", UNREACHABLE),
    ],
)
def test_a_network_that_is_gone_for_a_moment_is_waited_for(
    tmp_path, server, url, monkeypatch, owner, name, error
):
    original, calls = getattr(owner, name), []

    def second_fails(self, *args):
        calls.append(args)
        if len(calls) == 2:
            raise error
        return original(self, *args)

    monkeypatch.setattr(owner, name, second_fails)
    server.drop_after = 300_000
    download(url, tmp_path / "file.npz", CHECK)
    assert (tmp_path / "file.npz").read_bytes() == CONTENT
    assert len(calls) > 2


def test_a_server_without_resume_starts_over(tmp_path, server, url):
    server.drop_after, server.ranges = 300_000, False
    download(url, tmp_path / "file.npz", CHECK)
    assert (tmp_path / "file.npz").read_bytes() == CONTENT


def test_a_later_run_goes_on_and_until_then_there_is_no_file(tmp_path, server, url):
    server.drop_after, server.drops = 0, 99
    (tmp_path / "file.npz.part").write_bytes(CONTENT[:1000])
    with pytest.raises(UserError, match=r"got 1000 bytes before it broke off .*; run the same"):
        download(url, tmp_path / "file.npz", CHECK)
    assert [path.name for path in tmp_path.iterdir()] == ["file.npz.part"]
    server.drop_after = None
    server.requests.clear()
    download(url, tmp_path / "file.npz", CHECK)
    assert server.requests == [("/file.npz", "bytes=1000-")]
    assert (tmp_path / "file.npz").read_bytes() == CONTENT


def test_a_part_of_another_file_is_thrown_away(tmp_path, server, url):
    (tmp_path / "file.npz.part").write_bytes(b"of last year's release")
    download(url, tmp_path / "file.npz", CHECK)
    assert (tmp_path / "file.npz").read_bytes() == CONTENT


@pytest.mark.parametrize("extra", [b"", b"and more"])
def test_a_part_as_long_as_the_file_or_longer(tmp_path, server, url, extra):
    """Killed between the last byte and the renaming; or what was there is of another file."""
    (tmp_path / "file.npz.part").write_bytes(CONTENT + extra)
    download(url, tmp_path / "file.npz", CHECK)
    assert (tmp_path / "file.npz").read_bytes() == CONTENT
    assert len(server.requests) == (2 if extra else 0)


def test_a_wrong_file_is_refused_once_and_removed(tmp_path, server, url):
    server.files["file.npz"] = b"another release"
    with pytest.raises(UserError, match=rf"{url}: expected sha256 .* fetch it again"):
        download(url, tmp_path / "file.npz", CHECK)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file.npz.part").write_bytes(b"an")
    with pytest.raises(UserError, match=r"expected sha256"):
        download(url, tmp_path / "file.npz", CHECK)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_just_now_is_neither_removed_nor_fetched_again(
    tmp_path, server, url
):
    """A check whose disk or memory fails says nothing about the bytes."""

    def check(path):
        try:
            raise OSError(errno.EIO, "Input/output error")
        except OSError as error:
            raise UserError("expected a whole npz file, got a truncated one") from error

    (tmp_path / "file.npz").write_bytes(CONTENT)
    (tmp_path / "other.npz.part").write_bytes(CONTENT)
    with pytest.raises(UserError):
        obtain(url, tmp_path / "file.npz", check)
    with pytest.raises(UserError):
        download(url, tmp_path / "other.npz", check)
    assert (tmp_path / "file.npz").read_bytes() == CONTENT
    assert (tmp_path / "other.npz.part").read_bytes() == CONTENT
    assert server.requests == []


def test_an_answer_in_html_is_named_as_such(tmp_path, server, url):
    server.files["file.npz"] = b"  <HTML><body>Sign in</body>"
    with pytest.raises(UserError, match=r"got a web page .*open the address in a browser"):
        download(url, tmp_path / "file.npz", CHECK)
    assert not list(tmp_path.iterdir())


def test_a_busy_server_is_asked_again(tmp_path, server, url):
    server.status = 503
    with pytest.raises(UserError, match=r"broke off .*HTTP 503"):
        download(url, tmp_path / "file.npz", CHECK)
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://127.0.0.1/x", "expected an http or https address"),
        ("http://127.0.0.1:9/x", "broke off|expected an answer"),
        ("http://no-such-host.invalid/x", "expected an answer"),
    ],
)
def test_addresses_that_do_not_answer(tmp_path, address, message):
    with pytest.raises(UserError, match=message):
        obtain(address, tmp_path / "x", CHECK)
    assert not list(tmp_path.iterdir())
