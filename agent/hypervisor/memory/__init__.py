"""A host with a hypervisor that exists in memory.

It ships so that a person can try documents without QEMU, and so that thousands of machines and crashes can be tried in
seconds.
"""

from agent.hypervisor.memory.host import MemoryHost as MemoryHost
from agent.hypervisor.memory.images import MemoryImages as MemoryImages
from agent.hypervisor.memory.work import Scripted as Scripted
