"""What the figures are worth: processor, cores, memory, kernel, file system. No name of the machine, no path, no user."""

import os
import platform
import subprocess


def facts(stores_on):
    """The machine as it is written into the results; the stores' loop files lie on the file system of `stores_on`."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())
    with open("/proc/meminfo") as file:
        memory_kib = next(int(line.split()[1]) for line in file if line.startswith("MemTotal:"))
    below = subprocess.run(["stat", "--file-system", "--format=%T", stores_on], check=True, capture_output=True, text=True)
    below = below.stdout.strip()
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "memory_mib": memory_kib // 1024,
            "kernel": platform.release().split("-")[0],
            "file_system": f"ext4 in a loop file, new for each store, on {'ext4' if below.startswith('ext2') else below}"}
