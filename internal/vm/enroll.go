package vm

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
)

// Layout of the file with a machine's UEFI variables: a firmware volume
// (PI 1.8, III 3.2.1) with a store of authenticated variables, which EDK2 defines
// in MdeModulePkg/Include/Guid/VariableFormat.h.
const (
	volumeSignatureAt = 40
	volumeHeaderAt    = 48 // the size of the volume's header

	storeFormatAt = 20
	storeHeader   = 28
	storeReady    = 0xfe5a // formatted, healthy

	variableHeader = 60
	variableStart  = 0x55aa
	variableAdded  = 0x3f

	variableOwn    = 0x03 // non-volatile, boot services
	variableSigned = 0x27 // and run time, with a time-based signature
)

// Names of variables and types (UEFI 2.10, 3.3 and 32.4.1; EDK2).
const (
	guidStore      = "aaf32c78-947b-439a-a180-2e144ec37792"
	guidGlobal     = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	guidDatabase   = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
	guidEnable     = "f0a30bc7-af08-4556-99c4-001009c93a44"
	guidX509       = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072"
	guidOwner      = "6d757374-6572-4d75-8374-65726d757374" // who enrolled: any
	signatureList  = 28                                     // header of a signature list
	signatureOwner = 16
)

// enroll returns the variables of a firmware without any, with cert (DER) as platform key,
// key exchange key and the only certificate of programs that may start, and with Secure
// Boot switched on.
func enroll(blank, cert []byte) ([]byte, error) {
	at, end, err := findStore(blank)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(blank)
	key := signatureListOf(cert)
	for _, v := range [][]byte{
		variable("db", guidDatabase, variableSigned, key),
		variable("KEK", guidGlobal, variableSigned, key),
		variable("PK", guidGlobal, variableSigned, key),
		variable("SecureBootEnable", guidEnable, variableOwn, []byte{1}),
	} {
		if at+len(v) > end {
			return nil, fmt.Errorf("a certificate of %d bytes does not fit into the firmware's variables", len(cert))
		}
		at += copy(out[at:], v)
	}
	return out, nil
}

// findStore returns where variables begin, of which there must be none yet, and
// where their store ends.
func findStore(b []byte) (at, end int, err error) {
	if len(b) < 64 || string(b[volumeSignatureAt:][:4]) != "_FVH" {
		return 0, 0, errors.New("they are no firmware volume")
	}
	head := int(binary.LittleEndian.Uint16(b[volumeHeaderAt:]))
	if head+storeHeader > len(b) || !slices.Equal(b[head:][:16], guid(guidStore)) || binary.LittleEndian.Uint16(b[head+storeFormatAt:]) != storeReady {
		return 0, 0, errors.New("they are no store of authenticated variables")
	}
	at, end = head+storeHeader, head+int(binary.LittleEndian.Uint32(b[head+16:]))
	if end > len(b) || at+2 > end || binary.LittleEndian.Uint16(b[at:]) != 0xffff {
		return 0, 0, errors.New("they are not empty")
	}
	return at, end, nil
}

// variable is a variable as it lies in the store, filled up to a multiple of four bytes.
func variable(name, vendor string, attributes uint32, data []byte) []byte {
	var text []byte
	for _, c := range append(utf16.Encode([]rune(name)), 0) {
		text = binary.LittleEndian.AppendUint16(text, c)
	}
	b := make([]byte, variableHeader, variableHeader+len(text)+len(data)+3)
	binary.LittleEndian.PutUint16(b, variableStart)
	b[2] = variableAdded
	binary.LittleEndian.PutUint32(b[4:], attributes)
	if attributes == variableSigned {
		binary.LittleEndian.PutUint16(b[16:], 2026) // the time of the signature: year, month, day
		b[18], b[19] = 1, 1
	}
	binary.LittleEndian.PutUint32(b[36:], uint32(len(text)))
	binary.LittleEndian.PutUint32(b[40:], uint32(len(data)))
	copy(b[44:], guid(vendor))
	b = append(append(b, text...), data...)
	for len(b)%4 != 0 {
		b = append(b, 0xff)
	}
	return b
}

// signatureListOf is EFI_SIGNATURE_LIST with one certificate.
func signatureListOf(cert []byte) []byte {
	size := signatureOwner + len(cert)
	b := guid(guidX509)
	b = binary.LittleEndian.AppendUint32(b, uint32(signatureList+size))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	b = append(b, guid(guidOwner)...)
	return append(b, cert...)
}

// guid is a GUID in the byte order of UEFI: the first three parts are numbers.
func guid(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil {
		panic("guid " + s) // constants only
	}
	slices.Reverse(b[:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	return b
}
