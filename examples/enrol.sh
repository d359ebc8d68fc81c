#!/bin/sh
# A device's enrolment with nothing but openssl (3.0 or newer) and curl: EST, RFC 7030.
#
# First, with the one-time secret that the city's operator issued for this device (a file, so that no process list
# shows it); later, long before the certificate ends, with the certificate itself:
#
#     examples/enrol.sh first --server https://lachan.example:8444 --ca root.pem --name cam-0042 \
#         --secret-file secret.txt --folder /var/lib/device
#     examples/enrol.sh renew --server https://lachan.example:8444 --ca root.pem --folder /var/lib/device
#
# What protects the device: root.pem, the city's root certificate, is put into it at manufacture; no other server is
# spoken to. The key is made here and never leaves the folder: device.key, device.pem (certificate, then its issuer).
# Old ones are replaced only when the new certificate verifies and fits the new key. An answer that got lost is no harm:
# run it again; the waiting key (device.key.new) is used again, and the same key gets the same certificate.
# Exit codes: 0 done, 1 refused or not reached (the reason is on standard error), 2 wrong usage.
set -eu
umask 077

fail() {
    echo "enrol: $*" >&2
    exit 1
}

usage() {
    sed -n '3,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# ask PATH FILE [curl options]: one request; the answer's base64 is decoded into FILE. A server that is busy (429, 503)
# is asked again after the time that it names in Retry-After.
ask() {
    path=$1 file=$2
    shift 2
    status=$(curl --silent --show-error --cacert "$ca" --max-time 60 --retry 4 --retry-connrefused \
        --output "$file.body" --write-out '%{http_code}' "$@" "$server/.well-known/est/$path") ||
        fail "$server was not reached, or is not the city's server"
    [ "$status" = 200 ] || fail "$path was refused ($status): $(head -c 500 "$file.body" | tr -d '\000-\010\013-\037')"
    openssl base64 -d -in "$file.body" -out "$file" || fail "$path answered something else than base64"
    rm -f "$file.body"
}

# certificates FILE: the certificates of a certs-only PKCS#7, in PEM.
certificates() {
    openssl pkcs7 -inform DER -in "$1" -print_certs | sed -n '/^-----BEGIN/,/^-----END/p'
}

verb=${1:-}
[ $# -gt 0 ] && shift
server='' ca='' name='' secret_file='' folder=.
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
    --server) server=${2%/} ;;
    --ca) ca=$2 ;;
    --name) name=$2 ;;
    --secret-file) secret_file=$2 ;;
    --folder) folder=$2 ;;
    *) usage ;;
    esac
    shift 2
done
[ -n "$server" ] && [ -n "$ca" ] || usage
[ -r "$ca" ] || fail "cannot read the root certificate $ca"
mkdir -p "$folder"
work=$(mktemp -d "$folder/enrol.XXXXXX")
trap 'rm -rf "$work"' EXIT

# 1. The key: a new one, or the one that waits because an answer got lost.
key=$folder/device.key.new
[ -s "$key" ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$key"

# 2. The request, and who asks.
case $verb in
first)
    [ -n "$name" ] && [ -r "$secret_file" ] || usage
    openssl req -new -key "$key" -subj "/CN=$name" -outform DER -out "$work/request"
    printf 'user = "%s:%s"\n' "$name" "$(head -n 1 "$secret_file" | tr -d '\r\n')" >"$work/who"
    operation=simpleenroll
    ;;
renew)
    [ -s "$folder/device.pem" ] || fail "there is no certificate in $folder to renew; use first"
    # RFC 7030 4.2.2: subject and alternative names are those of the certificate in use.
    openssl x509 -x509toreq -in "$folder/device.pem" -signkey "$key" -copy_extensions copy \
        -out "$work/request.pem" 2>"$work/log" || fail "$(cat "$work/log")"
    openssl req -in "$work/request.pem" -outform DER -out "$work/request"
    printf 'cert = "%s"\nkey = "%s"\n' "$folder/device.pem" "$folder/device.key" >"$work/who"
    operation=simplereenroll
    ;;
*) usage ;;
esac

# 3. Ask, over TLS that only the city's own root vouches for.
openssl base64 -in "$work/request" -out "$work/request.b64"
ask "$operation" "$work/answer" --config "$work/who" --data-binary "@$work/request.b64" \
    --header 'Content-Type: application/pkcs10' --header 'Content-Transfer-Encoding: base64'
ask cacerts "$work/authorities"

# 4. Believe nothing that does not verify, and install it in one step.
certificates "$work/answer" >"$work/device.pem"
certificates "$work/authorities" >"$work/authorities.pem"
openssl verify -CAfile "$ca" -untrusted "$work/authorities.pem" "$work/device.pem" >"$work/log" 2>&1 ||
    fail "the certificate does not verify: $(cat "$work/log")"
[ "$(openssl x509 -in "$work/device.pem" -noout -pubkey)" = "$(openssl pkey -in "$key" -pubout)" ] ||
    fail "the certificate is for another key"
issuer=$(openssl x509 -in "$work/device.pem" -noout -issuer_hash)
# The server needs the issuer beside the certificate, and no more: the root it has.
awk -v RS='-----END CERTIFICATE-----\n' -v folder="$work" 'NF { printf "%s%s", $0, RS > (folder "/ca." NR) }' \
    "$work/authorities.pem"
for one in "$work"/ca.*; do
    [ "$(openssl x509 -in "$one" -noout -subject_hash)" != "$issuer" ] || cat "$one" >>"$work/device.pem"
done
mv "$work/device.pem" "$folder/device.pem.new"
mv "$key" "$folder/device.key"
mv "$folder/device.pem.new" "$folder/device.pem"
openssl x509 -in "$folder/device.pem" -noout -subject -serial -enddate
