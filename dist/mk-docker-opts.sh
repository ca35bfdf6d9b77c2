#!/bin/sh
# Turns flanneld's subnet.env into options for dockerd, as a file of variables that systemd and
# shells read.
#
# Options, output and exit statuses are those of flannel's dist/mk-docker-opts.sh. Any POSIX sh
# will do.

usage() {
    cat >&2 <<END
Usage: ${0##*/} [-f FILE] [-d FILE] [-i] [-c] [-m] [-k NAME]

Turns flanneld's subnet.env into options for dockerd.

  -f FILE  read flanneld's variables from FILE (default /run/flannel/subnet.env)
  -d FILE  write dockerd's options to FILE (default /run/docker_opts.env)
  -i       one variable for each option, DOCKER_OPT_*, and no combined one
  -c       the combined variable only; -i and -c together are the default
  -k NAME  name of the combined variable (default DOCKER_OPTS); a value it has already comes first
  -m       leave --ip-masq out
END
    exit 1
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

# $1 in double quotes, as both a shell and systemd's EnvironmentFile= read it back.
quoted() {
    printf '"%s"' "$(printf '%s\n' "$1" | sed 's/[\\"$`]/\\&/g')"
}

# Names of all variables that look like DOCKER_OPT_*, in order. Some shells list functions and
# multi-line values too, so what looks like one may be none.
option_names() {
    set | sed -n 's/^\(DOCKER_OPT_[A-Za-z0-9_]*\)=.*/\1/p' | LC_ALL=C sort -u
}

# Another node's route to the subnet would take the packets of our own containers away.
check_route() {
    last=${1##*.}
    [ "$last" -gt 0 ] 2>/dev/null || return 0
    network=${1%.*}.$((last - 1))/$2
    ip route show 2>/dev/null | {
        while read -r to via gateway rest; do
            if [ "$to $via" = "$network via" ]; then
                fail "$network is our own subnet, but there is a route to it via $gateway $rest"
            fi
        done
    }
}

mk_input=/run/flannel/subnet.env
mk_output=/run/docker_opts.env
mk_individual=
mk_combined=
mk_key=DOCKER_OPTS
mk_masq=yes

while getopts f:d:ick:mh mk_option; do
    case $mk_option in
    f) mk_input=$OPTARG ;;
    d) mk_output=$OPTARG ;;
    i) mk_individual=yes ;;
    c) mk_combined=yes ;;
    k) mk_key=$OPTARG ;;
    m) mk_masq= ;;
    *) usage ;;
    esac
done
[ "$mk_individual$mk_combined" ] || mk_individual=yes mk_combined=yes
case $mk_key in
'' | [0-9]* | *[!A-Za-z0-9_]*) fail "-k $mk_key: not the name of a variable" ;;
esac

# The shell looks names without a slash up in PATH.
case $mk_input in
*/*) ;;
*) mk_input=./$mk_input ;;
esac
if [ -e "$mk_input" ]; then
    . "$mk_input" || fail "cannot read $mk_input"
fi

if [ "$FLANNEL_SUBNET" ]; then
    DOCKER_OPT_BIP=--bip=$FLANNEL_SUBNET
fi
if [ "$FLANNEL_MTU" ]; then
    DOCKER_OPT_MTU=--mtu=$FLANNEL_MTU
fi
if [ "$mk_masq" ]; then
    # One of the two masquerades, never both.
    case $FLANNEL_IPMASQ in
    '') ;;
    true) DOCKER_OPT_IPMASQ=--ip-masq=false ;;
    false) DOCKER_OPT_IPMASQ=--ip-masq=true ;;
    *) fail "FLANNEL_IPMASQ is '$FLANNEL_IPMASQ', but must be true or false" ;;
    esac
fi

mk_lines=
mk_words=
for mk_name in $(option_names); do
    eval "mk_set=\${$mk_name+yes} mk_value=\${$mk_name-}"
    if [ "$mk_set" ] && [ "$mk_name" != "$mk_key" ]; then
        mk_lines="$mk_lines$mk_name=$(quoted "$mk_value")
"
        mk_words="$mk_words${mk_value:+ $mk_value}"
    fi
done
eval "mk_before=\${$mk_key-}"
if [ "$mk_before" ] && [ "$mk_words" ]; then
    mk_before="$mk_before "
fi

mk_text=
if [ "$mk_individual" ]; then
    mk_text=$mk_lines
fi
if [ "$mk_combined" ]; then
    mk_text="$mk_text$mk_key=$(quoted "$mk_before$mk_words")
"
fi
printf '%s' "$mk_text" >"$mk_output" || fail "cannot write $mk_output"

case $FLANNEL_SUBNET in
*.*/*) check_route "${FLANNEL_SUBNET%/*}" "${FLANNEL_SUBNET#*/}" ;;
esac
