"""The Python of configs, parsed and held to a small grammar: nothing is evaluated.

What is parsed is, letter by letter, what MONAI would evaluate: references are put in by MONAI's own code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from monai.bundle import ReferenceResolver

from .allowed import MODULES, PATHS, builtin, defined_as, find, is_component, is_function, is_value, resolve

LONGEST = 400  # characters
LARGEST = 2**31
REFERENCES = "__local_refs"  # how MONAI calls them in what it evaluates

# of what a reference, an item or a result leads to
ATTRIBUTES = {
    *("source", "target", "test", "val", "train_labelled", "train_unlabelled", "name", "path", "parent"),
    *(
        "num_classes",
        "label_names",
        "spatial_dims",
        "spatial_size",
        "spacing",
        "mirrored_side",
        "channels",
        "folder",
        "weights",
    ),
    "ema_model",
    *("meta", "shape", "ndim", "dtype", "device", "type", "index"),
}
METHODS = {
    *(
        "records",
        "labelled",
        "originals",
        "get",
        "get_parsed_content",
        "to",
        "train",
        "eval",
        "parameters",
        "state_dict",
    ),
    *("detach", "item", "cpu", "float", "run", "begin", "finish", "judge", "check", "check_trained"),
}
OPERATORS = (
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.USub, ast.UAdd, ast.Not, ast.And, ast.Or),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.In, ast.NotIn),
)
# the configs that a config may read; others hold text that is not written as a value
READ = ("/configs/inference.json", "/configs/train.json")
OWN_PLACE = rf"{REFERENCES}\['\w+'\]\.(path(\.parent)?|folder)"
PLAIN = (
    *(ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.List, ast.Tuple, ast.ListComp, ast.GeneratorExp),
    *(ast.comprehension, ast.Load, ast.Store, ast.keyword, *OPERATORS),
)


class _AnyId(dict[str, Any]):
    def __contains__(self, key: object) -> bool:
        return True


def leads_outside(text: str) -> bool:
    """Whether a text names a place outside of the folder that it is relative to."""
    start = re.match(r"[/\\~]|[A-Za-z]:|file:|[A-Za-z][\w+.-]*://", text.strip())
    return bool(start) or ".." in re.split(r"[/\\]", text)


def imported(text: str) -> ast.Import | ast.ImportFrom | None:
    """The import that an expression is, if it is one for MONAI."""
    try:
        statement = next(iter(ast.parse(text).body), None)
    except (SyntaxError, ValueError):
        return None
    return statement if isinstance(statement, (ast.Import, ast.ImportFrom)) else None


def check_import(text: str) -> tuple[str, Any]:
    """Check an expression that is an import.

    Returns:
        the name that expressions know it by, and what that is; for a module, its name.

    Raises:
        ValueError: for the import of what expressions may not use, or under another name.
    """
    statement = imported(text)
    if statement is None or len(ast.parse(text).body) > 1 or len(statement.names) != 1:
        raise ValueError("expected one import of one name")
    (alias,) = statement.names
    if isinstance(statement, ast.Import):
        known = alias.asname or alias.name
        if alias.name != MODULES.get(known):
            raise ValueError(f"imports {alias.name}; expected {', '.join(dict.fromkeys(MODULES.values()))}")
        return known, alias.name
    path = f"{statement.module}.{alias.name}"
    if statement.level or alias.asname or builtin(alias.name) or alias.name in MODULES:
        raise ValueError(f"imports {path} under a name that hides what it is")
    (thing,) = resolve(path)
    if not (is_function(thing) or is_component(thing)):
        raise ValueError(f"imports {path}, which expressions may not call")
    return alias.name, thing


class Expression:
    """An expression of a config, checked.

    Args:
        text: without the ``$``.
        names: what is imported in the bundle's configs.
        is_path: whether it gives a path: such may only be put together from references and relative parts.

    Attributes:
        path_ids: ids that it makes a path of.

    Raises:
        ValueError: for what may not stand in an expression.
    """

    def __init__(self, text: str, names: Mapping[str, Any], is_path: bool = False) -> None:
        if len(text) > LONGEST:
            raise ValueError(f"an expression of more than {LONGEST} characters")
        self.names, self.path_ids = names, set[str]()
        self.followed: set[ast.AST] = set()  # sums that were checked as paths
        resolved = ReferenceResolver.update_refs_pattern(f"${text}", _AnyId())[1:]
        if imported(resolved):
            raise ValueError("an import with references")
        try:
            tree = ast.parse(resolved, mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ValueError("no expression of Python") from error
        self.visit(tree, frozenset())
        if is_path:
            self.path(tree)

    def visit(self, node: ast.AST, local: frozenset[str]) -> None:
        """Check a node and all below it; ``local`` are the names of lambdas and comprehensions."""
        if isinstance(node, ast.Constant):
            return self.constant(node.value)
        if isinstance(node, ast.Name):
            return self.name(node, local)
        if isinstance(node, ast.Attribute):
            return self.attribute(node, local)
        if isinstance(node, ast.Call):
            return self.call(node, local)
        if isinstance(node, ast.Lambda):
            return self.visit(node.body, local | self.parameters(node.args))
        if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            local |= self.targets(node.generators)
        if isinstance(node, ast.Subscript):
            return self.subscript(node, local)
        if isinstance(node, ast.Dict):
            if not all(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in node.keys):
                raise ValueError("a dictionary whose keys are not written out")
        elif isinstance(node, ast.BinOp):
            return self.operation(node, local)
        elif not isinstance(node, PLAIN):
            raise ValueError(f"{type(node).__name__}, which expressions may not hold")
        for child in ast.iter_child_nodes(node):
            self.visit(child, local)
        return None

    def constant(self, value: Any) -> None:
        """Check a literal."""
        if isinstance(value, str):
            if re.search(r"[$@%\0]|^_\w*_$|__", value) or leads_outside(value):
                raise ValueError(f"the text {value!r}")
        elif not (value is None or (isinstance(value, (bool, int, float)) and abs(value) <= LARGEST)):
            raise ValueError(f"the literal {value!r}")

    def targets(self, generators: list[ast.comprehension]) -> frozenset[str]:
        """The names that a comprehension gives to items."""
        nodes = [node for each in generators for node in ast.walk(each.target)]
        names = frozenset(node.id for node in nodes if isinstance(node, ast.Name))
        if not all(isinstance(node, (ast.Name, ast.Tuple, ast.Store)) for node in nodes) or any(
            each.is_async for each in generators
        ):
            raise ValueError("a comprehension over other than names")
        self.bound(names)
        return names

    def bound(self, names: frozenset[str]) -> None:
        """Check the names of parameters."""
        if wrong := [name for name in names if name.startswith("_") or builtin(name) or name in MODULES]:
            raise ValueError(f"a parameter named {', '.join(sorted(wrong))}")

    def parameters(self, arguments: ast.arguments) -> frozenset[str]:
        """The parameters of a lambda."""
        if arguments.vararg or arguments.kwarg or arguments.defaults or arguments.kw_defaults:
            raise ValueError("a lambda with other than plain parameters")
        names = frozenset(each.arg for each in (*arguments.posonlyargs, *arguments.args))
        self.bound(names)
        return names

    def name(self, node: ast.Name, local: frozenset[str]) -> None:
        """Check a name that is not called."""
        if node.id not in local and not is_value(self.names.get(node.id)):
            raise ValueError(f"{node.id} on its own" if node.id != REFERENCES else "references as a whole")

    def dotted(self, node: ast.AST, local: frozenset[str]) -> Any:
        """What a name with attributes of a module or import leads to; None for anything else."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id in local or node.id == REFERENCES:
            return None
        thing = self.names.get(node.id, MODULES.get(node.id))
        if isinstance(thing, str):
            return find(thing, names)
        if thing is None:
            return builtin(node.id) if not names else None
        for name in names:
            thing = getattr(thing, name, None) if not name.startswith("_") else None
        return thing

    def attribute(self, node: ast.Attribute, local: frozenset[str]) -> None:
        """Check an attribute that is not called."""
        thing = self.dotted(node, local)
        if thing is not None:
            if not is_value(thing):
                raise ValueError(f"{ast.unparse(node)}, which is not a plain value")
        elif node.attr not in ATTRIBUTES:
            raise ValueError(f"the attribute {node.attr}")
        else:
            self.visit(node.value, local)

    def call(self, node: ast.Call, local: frozenset[str]) -> None:
        """Check a call and its arguments."""
        thing = self.dotted(node.func, local)
        mapped = [each for each in node.keywords if each.arg is None]
        if any(isinstance(each, ast.Starred) for each in node.args) or (mapped and thing is not dict):
            raise ValueError(f"a call with * or **: {ast.unparse(node)}")
        if wrong := [each.arg for each in node.keywords if each.arg and each.arg.startswith("_")]:
            raise ValueError(f"an argument named {wrong[0]}")
        if thing is None:
            if not (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
                raise ValueError(f"calls {ast.unparse(node.func)}")
            self.visit(node.func.value, local)
        elif isinstance(node.func, ast.Name) and thing is builtin(node.func.id):
            if thing is dict and node.args:
                raise ValueError("dict with other than named items")
        elif not is_function(thing):
            raise ValueError(f"calls {ast.unparse(node.func)}")
        if defined_as(thing) in PATHS:
            self.path_arguments(node, PATHS[defined_as(thing)])
        for argument in (*node.args, *(each.value for each in node.keywords)):
            self.visit(argument, local)

    def path_arguments(self, node: ast.Call, positions: tuple[int, ...]) -> None:
        """Check the arguments of a function that are paths."""
        if len(node.args) < len(positions):
            raise ValueError(f"{ast.unparse(node)}: expected paths as arguments without names")
        for position in positions:
            self.path(node.args[position])
        if "read_config" in ast.unparse(node.func):
            file = node.args[0].right if isinstance(node.args[0], ast.BinOp) else None
            if len(node.args) > 1 or not (isinstance(file, ast.Constant) and file.value in READ):
                raise ValueError(f"{ast.unparse(node)}: expected one of {', '.join(READ)} of a folder")

    def subscript(self, node: ast.Subscript, local: frozenset[str]) -> None:
        """Check an item or the first items of something."""
        if isinstance(node.value, ast.Name) and node.value.id == REFERENCES:
            if not (isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)):
                raise ValueError("a reference that is computed")
            if re.search("(^|::)_", node.slice.value):
                raise ValueError(f"a reference to {node.slice.value}, which is not the config's own")
            return
        self.visit(node.value, local)
        if isinstance(node.slice, ast.Slice):
            if node.slice.lower or node.slice.step or node.slice.upper is None:
                raise ValueError("a slice other than of the first items")
            self.visit(node.slice.upper, local)
        else:
            self.visit(node.slice, local)

    def operation(self, node: ast.BinOp, local: frozenset[str]) -> None:
        """Check arithmetic; a text that begins with a slash may only continue a path."""
        self.visit(node.op, local)
        sides = (node.left, node.right)
        texts = [
            each.value for each in sides if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        if texts and not isinstance(node.op, ast.Add):
            raise ValueError(f"arithmetic with a text: {ast.unparse(node)}")
        if texts and node not in self.followed:
            self.path(node)
        self.visit(node.left, local)
        if isinstance(node.right, ast.Constant) and texts:
            self.constant(re.sub("^/(?=.)", "", str(node.right.value)))
        else:
            self.visit(node.right, local)

    def path(self, node: ast.AST) -> None:
        """Check that a path starts at a reference or a relative place, and note of which ids it is made."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            self.followed.add(node)
            self.path(node.left)
            if not isinstance(node.right, ast.Constant):
                raise ValueError(f"a path that goes on with other than text: {ast.unparse(node.right)}")
            if re.search(r"(^|[/\\])\.*([/\\]|$)", str(node.right.value).removeprefix("/")):
                raise ValueError(f"the part {node.right.value!r} of a path")
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str) and (not node.value or leads_outside(node.value)):
                raise ValueError(f"the path {node.value!r}, which leads outside")
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == REFERENCES:
            self.path_ids.add(ast.literal_eval(node.slice))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "str" and len(node.args) == 1:
            self.path(node.args[0])
        elif isinstance(node, ast.Attribute) and re.fullmatch(OWN_PLACE, ast.unparse(node)):
            pass  # a place that the library found for the user
        elif isinstance(node, ast.IfExp):
            self.path(node.body)
            self.path(node.orelse)
        else:
            raise ValueError(f"a path that is computed: {ast.unparse(node)}")
