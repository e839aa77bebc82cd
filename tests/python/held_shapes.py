"""Expressions that hold what a call has given while they call something else, and such as do not."""

from __future__ import annotations

import sys
import textwrap
from typing import Any

#: take() gives the item; at() is where the interrupt must not come; see() is told what there is in the end.
HELD = {
    "argument": "see(take(), at())",
    "keyword": "see(take(), last=at())",
    "keyword first": "see(first=take(), last=at())",
    "method": "w.see(take(), at())",
    "nested": "see((take(), [at()]))",
    "argument of it": "see(at(take()))",
    "starred": "see(*[take()], at())",
    "starred behind": "see(take(), *at_list())",
    "keywords": "see(take(), **at_dict())",
    "starred keywords": "see(*(), **{'first': take()}, **at_dict())",
    "walrus": "see((x := take()), at())",
    "walrus and more": "see([x := take(), (y := at())])",
    "list": "see([take(), at()])",
    "tuple": "see((take(), 1, at()))",
    "set": "see({take(), at()})",
    "dict": "see({'a': take(), 'b': at()})",
    "dict key": "see({take(): at()})",
    "starred list": "see([*[1], take(), at()])",
    "starred set": "see({*[1], take(), at()})",
    "starred tuple": "see((*[take()], at()))",
    "merged dict": "see({**{'a': take()}, 'b': at()})",
    "slice": "see(slice(take(), at()))",
    "subscript": "see({None: 0}.get(at(), 1), take()) if False else see([take(), 0][at() or slice(None)])",
    "add": "see([take()] + [at()])",
    "add result": "see(take() + (at() or b''))",
    "add in place": "x = []; x += [take(), at()]; see(x)",
    "add derived": "see(take() * 1 + b'' + (at() or b''))",
    "negated": "see([take()][-(at() or 1)])",
    "compare": "see((take() == at(), box[-1]))",
    "chain": "see((b'' < take() < (at() or b'~'), box[-1]))",
    "identity": "see([take() is at(), box[-1]])",
    "attribute": "see(Box(take()).value, at())",
    "attribute of it": "see(Box(take()).join(at()))",
    "format": "see(f'{take()!r} {at()}')",
    "format spec": "see(f'{take()!r:>{at() or 1}}')",
    "conditional": "see(take(), at() if w else None)",
    "conditional before": "see(take() if w else None, at())",
    "conditional within": "see((take() if w else 1) if w else 2, at())",
    "or": "see(None or take(), at())",
    "and": "see(1 and take(), at())",
    "or behind": "see(take(), None or at())",
    "condition behind": "see(take(), 1 if none() else 2, at())",
    "comprehension before": "see([take() for i in (1,)], at())",
    "comprehension of what was taken": "see([i for i in (take(), 1)], at())",
    "comprehension around": "see([(take(), at()) for i in (1,)])",
    "set comprehension": "see({take() for i in (1,)}, at())",
    "dict comprehension": "see({take(): i for i in (1,)}, at())",
    "two loops": "see([take() for i in (1,) for j in (1,)], at())",
    "comprehension behind": "see(take(), [i for i in (1, 2)], at())",
    "comprehension with a condition": "see([take() for i in (1, 2) if i == 1], at())",
    "generator expression": "see(list(take() for i in (1,)), at())",
    "lambda": "see((lambda: take())(), at())",
    "store behind": "w.box[at() or 0] = take() if False else see(take(), at())",
    "unpack": "a, b = take(), at(); see(a)",
    "unpack starred": "a, *b = [take(), at()]; see(a)",
    "attribute target": "at_attribute.x = take(); see(at_attribute.x)",
    "subscript target": "w.box[at() or 0] = take(); see(box)",
    "unpacked into a target": "a, at_attribute.x = 1, take(); see(at_attribute.x)",
    "unpacked parts": "at_attribute.x, a = [0, take()]; see(a)",
    "in place attribute": "w.n = b''; w.n += take() + (at() or b''); see(w.n)",
    "assert": "assert see(take(), at()) is None",
    "return": "def f(): return take(), at()\nsee(f())",
    "raise": "try:\n    raise KeyError(take(), at())\nexcept KeyError as error:\n    see(error.args)",
    "with": "with at_enter(take()) as x:\n    see(x)",
    "in with": "with at_enter(None):\n    see(take(), at())",
    "in for": "for i in (1, 2):\n    if i == 2: see(take(), at())",
    "in try": "try:\n    see(take(), at())\nfinally:\n    pass",
    "in except": "try:\n    {}[1]\nexcept KeyError:\n    see(take(), at())",
    "in finally": "try:\n    pass\nfinally:\n    see(take(), at())",
    "for": "for x in [take(), at()]:\n    see(x)",
    "for target": "for at_attribute.x in [take()]:\n    see(at_attribute.x)",
    "yield": "def f():\n    see((yield), at())\ng = f(); next(g); g.send(take()) if 0 else None\nsee(take(), at())",
    "yield behind": "def f():\n    see(take(), (yield 1), at())\nfor x in f(): pass",
    "yield from": "def f():\n    yield 1\n    return take()\ndef g():\n    see((yield from f()), at())\nfor x in g(): pass",
    "await": "async def f(): return take()\nasync def g(): see(await f(), at())\nrun(g())",
    "await behind": "async def g(): see(take(), await at_await())\nrun(g())",
    "async comprehension": "async def f():\n    yield take()\nasync def g(): see([x async for x in f()], at())\nrun(g())",
    "star behind a comprehension": "see(*[take() for i in (1,)], *at_list())",
    "class": "class A:\n    x = [take(), at()]\nsee(A.x)",
    "many": "see([" + "1, " * 80 + "take(), at()])",
    "many arguments": "see(" + "1, " * 80 + "take(), at())",
    "many places": "see([" + ", ".join(["[1"] * 60) + ", [take(), at()]" + "]" * 60 + "])",
}
if sys.version_info >= (3, 10):
    HELD["match guard"] = "match take():\n    case x if at(): pass\n    case 1: pass\n    case y: see(y)"
    HELD["match parts"] = "match [take()]:\n    case [x] if at(): pass\n    case [y, 1]: pass\n    case [y]: see(y)"
    HELD["match class"] = "match Box(take()):\n    case Box(value=x) if at(): pass\n    case Box(value=1): pass\n    case b: see(b.value)"
    HELD["match mapping"] = "match {'a': take()}:\n    case {'a': x} if at(): pass\n    case 1: pass\n    case {'a': x}: see(x)"

#: In these a loop goes round with the item, and is cut there: what a comprehension or a generator has goes with it.
ROUNDS = {name for name in HELD if "comprehension" in name or "generator" in name} | {"two loops", "yield behind"}

#: A condition, a store or a statement has taken what the calls before gave.
FREE = {
    "statement": "take(); at()",
    "stored": "x = take(); at()",
    "condition": "if take(): at()",
    "negated condition": "if not none() and take() == 1 or take(): at()",
    "isinstance": "if isinstance(take(), bytes): at(1, 2)",
    "while": "while take():\n    at()\n    break",
    "plain arguments": "x = take(); at(x, len, w.n, 1 + 1, x[0], [x, 1], {'a': x}, f'{x}')",
    "keyword": "x = take(); at(1, last=x)",
    "method": "x = take(); w.at(1, 2)",
    "starred": "x = [take()]; at(*x, **{'last': 1})",
    "first of many": "at() + [take(), len(box)]" if False else "see(at(), take())",
    "conditional": "x = at() if take() else 1",
    "or": "take() and at()",
    "or none": "none() or at()",
    "for": "for x in list(range(2)): at()",
    "nested for": "for x in list(range(2)):\n    for y in iter([take()]): at()",
    "for of a generator": "def f():\n    yield take()\n    at()\nfor x in f(): pass",
    "generator's beginning": "def f():\n    at()\n    yield 1\nfor x in f(): pass",
    "yield from": "def f():\n    at()\n    yield take()\ndef g(): yield from f()\nfor x in g(): pass",
    "with": "with manager():\n    at()",
    "with as": "with manager() as x:\n    take()\n    at()",
    "two withs": "with manager(), manager() as x:\n    for y in list(range(2)): at()",
    "await": "async def f(): at()\nasync def g():\n    await f()\n    at()\nrun(g())",
    "async with": "async def g():\n    async with manager() as x: at()\nrun(g())",
    "async for": "async def f():\n    yield take()\nasync def g():\n    async for x in f(): at()\nrun(g())",
    "in comprehension": "x = [at(i) for i in list(range(3))]",
    "in condition of a comprehension": "x = [i for i in list(range(3)) if at(i) is None]",
    "in dict comprehension": "x = {i: at(i) for i in list(range(3))}",
    "in set comprehension": "x = {at(i) for i in list(range(3))}",
    "in generator expression": "x = list(at(i) for i in range(3))",
    "except": "try:\n    take()[99]\nexcept IndexError: at()",
    "finally": "try:\n    take()\nfinally: at()",
    "behind except": "try:\n    raise KeyError(take())\nexcept KeyError: pass\nat()",
    "assert": "assert take()\nat()",
    "unpacked": "a, b = take(), 1\nat(a, b)",
    "raise": "try:\n    raise KeyError(at())\nexcept KeyError: pass",
}
if sys.version_info >= (3, 10):
    FREE["match guard"] = "match take():\n    case x if at(): pass"
    FREE["match"] = "match take():\n    case bytes(): at()"

PRELUDE = """
class Box:
    def __init__(self, value): self.value = value
    def join(self, other): return self.value, other

class at_enter:
    def __init__(self, value): self.value = value
    def __enter__(self):
        at.look(2)
        return self.value
    def __exit__(self, *rest): pass

class manager:
    def __enter__(self): return 1
    def __exit__(self, *rest): pass
    async def __aenter__(self): return 1
    async def __aexit__(self, *rest): pass

class Target:
    def __setattr__(self, name, value):
        at.look(2)
        self.__dict__[name] = value

at_attribute = Target()
def at_list():
    at.look(2)
    return [1]
def at_dict():
    at.look(2)
    return {"more": 1}
class at_await:
    def __await__(self):
        at.look(2)
        return iter(())
def none(): return None
def run(coroutine):
    try:
        coroutine.send(None)
    except StopIteration:
        pass
"""


class Witness:
    """What a shape gets as ``w``."""

    n = 1

    def __init__(self, scope: dict[str, Any]) -> None:
        self.box = scope["box"]
        self.see = scope["see"]
        self.at = scope["at"]


def run(shape: str, scope: dict[str, Any]) -> None:
    """Run it with these ``at``, ``take``, ``see`` and ``box``."""
    exec(compile(PRELUDE + "\ndef shape(w):\n" + textwrap.indent(shape, "    "), "<shape>", "exec"), scope)
    scope["shape"](Witness(scope))
