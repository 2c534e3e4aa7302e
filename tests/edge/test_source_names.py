from __future__ import annotations

import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.capture.names import public_name, scrub, secrets_of
from edge.config import Config
from edge.daemon import Daemon

WORD = st.text(string.ascii_letters + string.digits, min_size=6, max_size=12).map(lambda word: f"Zq{word}")
AWKWARD = st.text(string.ascii_letters + string.digits + "@:/?#=&%!$ ", min_size=4, max_size=12).map(
    lambda word: f"Zq{word}"
)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("rtsp://clinic:word@192.0.2.7:554/live/1", "rtsp://192.0.2.7:554"),
        ("rtsp://192.0.2.7/user=clinic_password=word_channel=1.sdp", "rtsp://192.0.2.7"),
        ("rtsps://clinic@[2001:db8::7]:322/x", "rtsps://[2001:db8::7]:322"),
        ("http://scope.local/stream?token=word", "http://scope.local"),
        ("rtsp://clinic:wo/rd@192.0.2.7/live", "rtsp://…"),
        ("rtsp://clinic:word@192.0.2.7:port/live", "rtsp://…"),
        ("gst:v4l2src device=/dev/video0 ! jpegdec", "gst:v4l2src"),
        ("gst:rtspsrc location=rtsp://a:b@c user-pw=word", "gst:rtspsrc"),
        ("gst:rtsp://a:b@c ! decodebin", "gst:pipeline"),
        ("/dev/v4l/by-id/usb-scope-video-index0", "/dev/v4l/by-id/usb-scope-video-index0"),
        ("picamera:1", "picamera:1"),
        ("phantom", "phantom"),
    ],
)
def test_the_name_of_a_source_holds_no_password(source: str, name: str) -> None:
    assert public_name(source) == name


@given(user=WORD, password=AWKWARD, token=WORD, escaped=st.booleans())
def test_no_part_of_a_password_is_left_in_a_name_or_a_message(
    user: str, password: str, token: str, *, escaped: bool
) -> None:
    written = quote(password, safe="") if escaped else password
    source = f"rtsp://{user}:{written}@192.0.2.7/live?token={token}"
    told = (
        public_name(source),
        scrub(f'Could not open "{source}".', source, *secrets_of(source)),
        scrub(f"401 for {user} with user-pw={token} at {source}", source, *secrets_of(source)),
    )
    for text in told:
        assert "Zq" not in text


@given(secret=WORD, key=st.sampled_from(["user-pw", "password", "location", "auth-token", "uri", "api_key"]))
def test_a_pipelines_complaint_does_not_repeat_its_secrets(secret: str, key: str) -> None:
    pipeline = f'rtspsrc {key}="{secret}" latency=0 ! decodebin'
    for text in (f"could not set {key} in {pipeline}", f"server answered {secret!r}: 401"):
        assert secret not in scrub(text, pipeline, *secrets_of(f"gst:{pipeline}"))


def test_the_daemon_tells_no_password_of_its_source(tiny_bundle: Path, tmp_path: Path) -> None:
    source = "rtsp://clinic:s3cret@127.0.0.1:9/live?token=t0ken"
    config = {"device": "test", "state_dir": tmp_path, "capture": {"source": source}, "model": {"bundle": tiny_bundle}}
    daemon = Daemon(Config.model_validate(config))
    daemon._reader._call = "read", 1  # as if it hung since the machine was started
    said = [daemon._hung(), daemon._source().model_dump_json(), *(body.decode() for _, body in daemon._hello())]
    assert "rtsp://127.0.0.1:9 has not answered" in said[0]
    assert not any(word in text for text in said for word in ("clinic", "s3cret", "t0ken", "live?"))


def test_an_ordinary_message_stays_as_it_is() -> None:
    for text in ('no element "nosuch"', "Could not read from resource; Broken pipe (32)", "not negotiated (-4)"):
        assert scrub(text, "gst:x") == text
