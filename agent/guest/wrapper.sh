# Runs one script in a guest, once, whatever becomes of the connection that asked for it. For any POSIX sh.
#
# It lies in the directory of the run, beside
#   script env   what is run, and what is set for it
#   ballast      room that is given back when the disk is full, for the last words of the script
#   begun/       made once, by the one that starts the script; `boot` and `pid` tell who watches it, and since which boot
#   output       both outputs of the script, in order; `drained` beside it when there will be no more
#   code         "EXIT-CODE SIZE-OF-OUTPUT", whole or not there at all; `code.new` lies ready for it, so that writing it
#                takes no room
#
# Signals are caught, not ignored: what is ignored here would be ignored in the script too. The outputs go through a
# pipe, for a script may open /dev/stderr again, which would cut a file to nothing.

watch_on() { trap : HUP INT QUIT TERM PIPE; }
no_signal() { [ "$code" -le 256 ] || code=$((code % 128 + 128)); } # ksh says 256+n of signal n
measure() { set -- $(LC_ALL=C ls -ln output); size=${5:--}; }

case $1 in
begin) # BOOT, in the home of the login
	watch_on
	home=$(pwd)
	cd "${0%/*}" || exit
	if ! why=$(mkdir -m 0700 begun 2>&1); then
		if [ -d begun ]; then echo 'holdfast already'; else echo "holdfast refused $why"; fi
		exit
	fi
	echo "$2" >begun/boot
	echo 'holdfast begun'
	exec </dev/null >/dev/null 2>&1
	/bin/sh ./wrapper guard "$home" | {
		trap '' HUP INT QUIT TERM
		until cat >>output; do
			rm -f ballast
			printf '\n[holdfast] output is missing here: the guest could not write it (is its disk full?)\n' >>output
			# Until there is room again, what comes is dropped but for the end of each piece: the script does not wait.
			while :; do
				said=$({ LC_ALL=C dd bs=65536 count=8 2>&3 | tail -c 1024 >>output; } 3>&1)
				case $said in '0+0 '*) break 2 ;; esac
				dd if=/dev/zero of=ballast bs=1024 count=512 2>/dev/null && break
				rm -f ballast
			done
		done
		: >drained
	}
	;;
guard) # HOME; out of the reach of a script that signals its group, or kills its parent
	watch_on
	echo $$ >begun/pid
	if command -v setsid >/dev/null; then
		setsid /bin/sh ./wrapper run "$2"
	else
		/bin/sh ./wrapper run "$2"
	fi
	code=$?
	no_signal
	exec >/dev/null
	# A process that the script left behind may hold the pipe open: then its silence for two seconds is waited for, at
	# most ten.
	quiet=0 waited=0 before=
	until [ -e drained ] || [ $quiet -ge 20 ] || [ $waited -ge 100 ]; do
		if sleep 0.1; then step=1; else sleep 1 && step=10; fi
		measure
		if [ "$size" = "$before" ]; then quiet=$((quiet + step)); else quiet=0; fi
		before=$size waited=$((waited + step))
	done
	measure
	until echo "$code $size" 1<>code.new && read -r line <code.new && [ "$line" = "$code $size" ] && mv -f code.new code; do
		[ -e wrapper ] || exit
		rm -f ballast
		sleep 1
	done
	;;
run) # HOME
	watch_on
	here=$(pwd)
	cd "$2" || cd /
	unset OLDPWD
	. "$here/env"
	# What this shell has to say of its end is no output. No subshell: of one that is signalled ksh93 gives the signal's
	# number for a code, now and then.
	/bin/sh -c 'exec "$0" 2>&1' "$here/script"
	code=$?
	no_signal
	exit $code
	;;
esac
