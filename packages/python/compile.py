import importlib.util, marshal, struct, sys

# Each module comes as the length of its path, the path, the length of its text, the
# text. Each answer is the length of the bytecode and the bytecode; none for a module
# that is not to be compiled. Bytecode names the hash of its source, and says that it
# need not be checked (PEP 552).
come, go = sys.stdin.buffer, sys.stdout.buffer


def take():
    head = come.read(4)
    return come.read(struct.unpack("<I", head)[0]) if len(head) == 4 else None


while True:
    path = take()
    if path is None:
        break
    text = take()
    out = b""
    try:
        code = compile(text, path.decode(), "exec", dont_inherit=True)
        out = importlib.util.MAGIC_NUMBER + struct.pack("<I", 1) + importlib.util.source_hash(text) + marshal.dumps(code)
    except (SyntaxError, ValueError, RecursionError, UnicodeError):
        pass
    go.write(struct.pack("<I", len(out)))
    go.write(out)
