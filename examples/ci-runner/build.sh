#!/bin/sh
set -eu
apt-get update -q
apt-get install -qy --no-install-recommends git ca-certificates make
git clone --depth 1 --branch "$REF" https://git.example/project.git /root/project
cd /root/project
make test
mkdir -p /root/out
git archive --format=tar.gz --output="/root/out/project-$REF.tar.gz" HEAD
