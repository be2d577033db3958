# Run by wheel.go: says as JSON what this interpreter is and where its nvidia-pytriton lies.
import importlib.util
import json
import os
import sys
import sysconfig

spec = importlib.util.find_spec("pytriton")  # finds, does not import
names = [sysconfig.get_config_var(name) or "" for name in ("INSTSONAME", "LDLIBRARY")]
folders = [sysconfig.get_config_var("LIBDIR") or "", os.path.join(sys.base_prefix, "lib")]
libraries = [os.path.join(folder, name) for folder in folders for name in names if ".so" in name]
print(
    json.dumps(
        {
            "Version": "%d.%d" % sys.version_info[:2],
            "Implementation": sys.implementation.name,
            "SitePackages": os.path.dirname(os.path.dirname(spec.origin)) if spec and spec.origin else "",
            "Prefix": sys.prefix,
            "SharedLibrary": next((path for path in libraries if os.path.exists(path)), ""),
        }
    )
)
