import json, os, platform, sys, sysconfig

try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (AttributeError, OSError, ValueError):
    libc = ""
paths = sysconfig.get_paths()
json.dump({
    "executable": sys.executable,
    "build": sys.version,
    "version": platform.python_version(),
    "cache_tag": sys.implementation.cache_tag or "",
    "name": sys.implementation.name,
    "system": sys.platform,
    "machine": platform.machine(),
    "libc": libc,
    "purelib": paths["purelib"],
    "platlib": paths["platlib"],
    "scripts": paths["scripts"],
    "data": paths["data"],
    "include": paths["include"],
}, sys.stdout)
