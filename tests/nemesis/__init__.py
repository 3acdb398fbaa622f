"""Everything that can go wrong at once, for as long as one likes, on real QEMU with real guests.

`python -m tests.nemesis --seconds 600 --seed 7` prints what it did and which promises were broken.
"""
