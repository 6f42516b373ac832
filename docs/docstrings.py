"""A griffe extension: makes what is exported, and docstrings that borrow from Sphinx, readable by mkdocstrings."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import Alias, Extension, Module, Object
from latex2mathml.converter import convert

_ROLE = re.compile(r":(?:attr|class|func|meth|mod):`~?([\w.]+)`")
_MATH = re.compile(r":math:`([^`]+)`")
_MATH_BLOCK = re.compile(r"^( *)\.\. math::(.*\n(?:\1 +.*\n|\n(?=\1 ))*)", re.MULTILINE)
_SPHINX = (
    (re.compile(r"^(\s*)Example:$", re.MULTILINE), r"\1Examples:"),  # the heading that griffe knows
    (re.compile(r"^\s*::$\n", re.MULTILINE), ""),  # a literal block, which Markdown knows by its indentation
    (re.compile(r"::$", re.MULTILINE), ":"),
)


class PublicNames(Extension):
    """Shows `ops.knn`, the function, where griffe sees `ops/knn.py`, the module; and links the roles of Sphinx."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite a docstring as soon as griffe has read it."""
        if obj.docstring is None:
            return
        text = _ROLE.sub(lambda role: _link(role[1], obj), obj.docstring.value)
        text = _MATH_BLOCK.sub(lambda math: f"{math[1]}{_math_ml(math[2], 'block')}\n\n", text)
        text = _MATH.sub(lambda math: f"<span>{_math_ml(math[1], 'inline')}</span>", text)
        for pattern, markdown in _SPHINX:
            text = pattern.sub(markdown, text)
        if obj.is_class and "NamedTuple" in map(str, obj.bases) and "Attributes:" not in text:
            fields = [name for name, member in obj.members.items() if "instance-attribute" in member.labels]
            text += f"\n\nFields, in order: {', '.join(f'`{name}`' for name in fields)}."
        obj.docstring.value = text

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Put what a package exports in place of its modules of the same names."""
        for package in [*(module for module in pkg.members.values() if isinstance(module, Module)), pkg]:
            exported = {name: package.members[name] for name in package.exports or () if name in package.members}
            modules = [member for member in exported.values() if isinstance(member, Module)]
            for name, member in exported.items():
                target = member.target_path if isinstance(member, Alias) else f"{member.path}.{name}"
                module = next((module for module in modules if target == f"{module.path}.{name}"), None)
                if module is not None:
                    package.members[name] = module.members[name]
                    package.members[name].parent = package
                elif isinstance(member, Alias):  # not resolved yet: its target may have been put elsewhere
                    package.members[name] = Alias(name, target, parent=package)


def _math_ml(latex: str, display: str) -> str:
    """LaTeX as MathML, which browsers show without a script; its operators are no emphasis of Markdown."""
    return convert(textwrap.dedent(latex).strip(), display=display).replace("*", "&#42;").replace("_", "&#95;")


def _link(name: str, obj: Object) -> str:
    """A link to an object of the reference; plain code where the reference has none of that name."""
    target = name
    if "." not in name:
        parent = obj.parent if obj.is_function or obj.is_attribute else obj
        target = f"{parent.path}.{name}" if parent is not None and name in parent.members else name
    return f'<autoref optional identifier="{target}"><code>{name}</code></autoref>'
