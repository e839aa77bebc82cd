"""More of them: files, formats, and what runs code."""

from __future__ import annotations

import ast
import asyncio
import bz2
import configparser
import contextlib
import copy
import csv
import email
import email.policy
import functools
import gzip
import html.parser
import importlib
import inspect
import io
import json
import logging
import lzma
import pickle
import socket
import sqlite3
import sys
import tarfile
import tempfile
import tokenize
import unittest.mock
import urllib.parse
import warnings
import xml.etree.ElementTree as ElementTree
import xml.sax
import xmlrpc.client
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from library import PIECES, Object, piece

__all__ = ["PIECES"]  # all of them

# ---- files ---------------------------------------------------------------------------------------------------------------------


class Raw(io.RawIOBase):
    """A file of ten bytes."""

    def __init__(self) -> None:
        self.position = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = min(len(buffer), 10 - self.position)
        buffer[:n] = b"x" * n
        self.position += n
        return n

    def write(self, data: Any) -> int:
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset if whence == 0 else self.position
        return self.position

    def tell(self) -> int:
        return self.position

    def truncate(self, size: int | None = None) -> int:
        return 0

    @property
    def closed(self) -> bool:
        return super().closed

    def close(self) -> None:
        super().close()


@piece
def buffered() -> None:
    reader = io.BufferedReader(Raw())
    reader.read(3), reader.peek(), reader.seek(1), reader.tell(), reader.read(), reader.close()  # type: ignore[func-returns-value]
    both = io.BufferedRandom(Raw())
    both.write(b"x"), both.seek(0), both.read(1), both.truncate(), both.close()  # type: ignore[func-returns-value]


@piece
def wrapped() -> None:
    lines = io.TextIOWrapper(io.BufferedReader(Raw()), encoding="ascii")
    lines.readline(), lines.tell(), lines.seek(0), lines.read(2), lines.close()  # type: ignore[func-returns-value]
    io.BufferedRWPair(Raw(), Raw()).close()


@piece
def given_up() -> None:
    io.BufferedReader(Raw()).read(2)
    io.TextIOWrapper(io.BufferedReader(Raw()), encoding="ascii").read(1)


PACKED = [gzip.compress(b"x" * 1000), bz2.compress(b"x" * 1000), lzma.compress(b"x" * 1000)]


@piece
def packed() -> None:
    for opener, data in zip((gzip.open, bz2.open, lzma.open), PACKED):
        with opener(io.BytesIO(data), "rt") as file:  # type: ignore[operator]
            file.readline()


def _archives() -> tuple[bytes, bytes]:
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a", "line\n" * 100)
    with tarfile.open(fileobj=tarred, mode="w:gz") as tar:
        entry = tarfile.TarInfo("a")
        entry.size = 100
        tar.addfile(entry, io.BytesIO(b"y" * 100))
    return zipped.getvalue(), tarred.getvalue()


ZIPPED, TARRED = _archives()


@piece
def archives() -> None:
    with zipfile.ZipFile(io.BytesIO(ZIPPED)) as archive, archive.open("a") as file:
        io.TextIOWrapper(file, encoding="ascii").read()
    with tarfile.open(fileobj=io.BytesIO(TARRED)) as tar:
        for entry in tar:
            extracted = tar.extractfile(entry)
            assert extracted is not None and len(extracted.read()) == 100


@piece
def temporary() -> None:
    with tempfile.SpooledTemporaryFile() as file:
        file.write(b"x")
        file.rollover()


@piece
def socket_files() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("w") as writer, theirs.makefile("r") as reader:
        writer.write("x\n")
        writer.flush()
        reader.readline()
        ours.makefile("rb")


# ---- formats -------------------------------------------------------------------------------------------------------------------


class Pickler(pickle.Pickler):
    def persistent_id(self, it: object) -> None:
        return None

    def reducer_override(self, it: object) -> Any:
        return NotImplemented


@piece
def pickles() -> None:
    file = io.BytesIO()
    Pickler(file).dump([Object()])
    pickle.loads(file.getvalue()), copy.deepcopy(Object())


@piece
def documents() -> None:
    class Encoder(json.JSONEncoder):
        def default(self, it: Any) -> Any:
            return list(it)

    json.dumps({"a": [1, {3, 4}]}, cls=Encoder), json.loads('{"a":[1.5]}', object_hook=lambda it: it, parse_float=float)
    list(csv.DictReader(line for line in ["a,b", "c,d"]))
    configparser.ConfigParser().read_string("[a]\nb=c\nd=%(b)s")
    xmlrpc.client.loads(xmlrpc.client.dumps(({"a": [1, "b"]},)))
    email.message_from_string("From: a@b\nTo: c@d\n\nbody", policy=email.policy.default)["to"]


@piece
def markup() -> None:
    class Target:
        def start(self, tag: str, attributes: Any) -> None:
            pass

        end = data = lambda self, it: None  # noqa: E731

        def close(self) -> None:
            pass

    class Tags(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attributes: Any) -> None:
            pass

    parser = ElementTree.XMLParser(target=Target())
    parser.feed("<a><b>x</b></a>")
    parser.close()
    xml.sax.parseString(b"<a><b/></a>", xml.sax.ContentHandler())
    Tags().feed("<a href='x'>b</a>")


@piece
def database() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.create_function("f", 1, lambda x: x + 1)
        connection.create_collation("k", lambda a, b: 0)
        connection.set_authorizer(lambda *args: 0)
        connection.execute("create table t(x)")
        connection.executemany("insert into t values(?)", ((i,) for i in range(5)))
        connection.row_factory = lambda cursor, row: row
        connection.execute("select f(x) from t order by x collate k").fetchall()


# ---- code, and what runs it ------------------------------------------------------------------------------------------------------


@piece
def source() -> None:
    ast.dump(ast.parse("def f(x): return x + 1")), compile("x = 1", "file", "exec"), ast.literal_eval("[1, 2]")
    list(tokenize.generate_tokens(io.StringIO("a = 1\n").readline)), inspect.signature(functools.partial(piece))
    urllib.parse.urlsplit("http://user@host:1/path?query#fragment").port, urllib.parse.quote("ä b")


@piece
def imports() -> None:
    sys.modules.pop("this_is_ours", None)
    sys.modules.pop("colorsys", None)
    importlib.import_module("colorsys").rgb_to_hsv(0, 0, 0)
    with contextlib.suppress(ImportError):
        importlib.import_module("this_is_nobodys")


LOG = logging.Logger("interrupted")
LOG.addHandler(logging.StreamHandler(io.StringIO()))


@piece
def messages() -> None:
    LOG.info("it is %s", Object())
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        warnings.warn("something", UserWarning, stacklevel=1)


@piece
def mocks() -> None:
    mock = unittest.mock.MagicMock()
    mock.method(1)
    mock.method.assert_called()


@piece
def errors() -> None:
    class Failure(Exception):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)

        def __str__(self) -> str:
            return "failed"

    try:
        raise Failure from ValueError()
    except (KeyError, Failure) as error:
        str(error)


@piece
def loops() -> None:
    async def numbers() -> Any:
        yield 1
        yield 2

    async def main() -> None:
        async for _ in numbers():
            await asyncio.sleep(0)
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

    asyncio.run(main())


@piece
def pools() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(len, "").result()
        list(pool.map(len, ["", "a"]))
