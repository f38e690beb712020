"""Runs before what resolves: who asks for anything of the network is led to the machine's gate."""
import os, socket, threading


def pump(source, to):
    try:
        while True:
            data = source.recv(65536)
            if not data:
                break
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        for s in source, to:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def relay(server):
    while True:
        near, _ = server.accept()
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect("/run/rivulet/gate/gate")
        except OSError:
            near.close()
            continue
        for source, to in (near, far), (far, near):
            threading.Thread(target=pump, args=(source, to), daemon=True).start()


def lead():
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(64)
    threading.Thread(target=relay, args=(server,), daemon=True).start()
    for name in "http_proxy", "https_proxy":
        os.environ[name] = os.environ[name.upper()] = "http://127.0.0.1:%d" % server.getsockname()[1]


lead()
