package closureimage

import (
	"strconv"
	"strings"
)

// blockSize is that of tar (POSIX.1-2017, pax, "ustar Interchange Format").
const blockSize = 512

// trailerSize is that of the two blocks of zeros that end an archive.
const trailerSize = 2 * blockSize

// Types of entries.
const (
	typeFile   = '0'
	typeLink   = '2'
	typeFolder = '5'
	typePAX    = 'x' // attributes of the next entry
)

// Fields of a header: offset and width.
const (
	nameMax    = 100
	prefixMax  = 155
	modeAt     = 100
	uidAt      = 108
	gidAt      = 116
	sizeAt     = 124
	timeAt     = 136
	sumAt      = 148
	typeAt     = 156
	linkAt     = 157
	magicAt    = 257
	majorAt    = 329
	minorAt    = 337
	prefixAt   = 345
	numberSize = 8  // width of mode, uid, gid, checksum and devices
	bigSize    = 12 // width of size and time
)

// sizeMax is the first size that a header cannot tell with its eleven digits.
const sizeMax = 1 << 33

// entry is one thing in a tar. Everything else about it is the same for all.
type entry struct {
	name   string // from the archive's root; folders end with a slash
	kind   byte
	mode   uint32
	size   int64  // of files
	target string // of symlinks
}

// appendHeader appends an entry's header to b: one block, or three and more when
// something does not fit and is told by a PAX header before.
func appendHeader(b []byte, e entry) []byte {
	prefix, name, fits := splitName(e.name)
	var records []byte
	if len(e.target) > nameMax || !isASCII(e.target) {
		records = appendRecord(records, "linkpath", e.target)
	}
	if !fits {
		records = appendRecord(records, "path", e.name)
	}
	if e.size >= sizeMax {
		records = appendRecord(records, "size", strconv.FormatInt(e.size, 10))
	}
	if len(records) > 0 {
		// Readers that know PAX never look at this name.
		b = appendBlock(b, "", "pax", entry{kind: typePAX, mode: 0o444, size: int64(len(records))})
		b = append(b, records...)
		b = append(b, make([]byte, padding(int64(len(records))))...)
	}
	return appendBlock(b, prefix, name, e)
}

// appendBlock appends one header block.
func appendBlock(b []byte, prefix, name string, e entry) []byte {
	var zero [blockSize]byte
	start := len(b)
	b = append(b, zero[:]...)
	h := b[start:]
	copy(h[:nameMax], name)
	octal(h[modeAt:], numberSize, int64(e.mode))
	octal(h[uidAt:], numberSize, 0)
	octal(h[gidAt:], numberSize, 0)
	if e.size < sizeMax {
		octal(h[sizeAt:], bigSize, e.size)
	} else {
		octal(h[sizeAt:], bigSize, 0)
	}
	octal(h[timeAt:], bigSize, 1)
	h[typeAt] = e.kind
	copy(h[linkAt:linkAt+nameMax], e.target)
	copy(h[magicAt:], "ustar\x0000")
	octal(h[majorAt:], numberSize, 0)
	octal(h[minorAt:], numberSize, 0)
	copy(h[prefixAt:prefixAt+prefixMax], prefix)
	sum := int64(numberSize * ' ') // the checksum counts its own field as blanks
	for _, c := range h {
		sum += int64(c)
	}
	octal(h[sumAt:], numberSize-1, sum)
	h[sumAt+numberSize-1] = ' '
	return b
}

// octal writes n with leading zeros and a NUL at the end.
func octal(field []byte, width int, n int64) {
	for i := width - 2; i >= 0; i-- {
		field[i] = '0' + byte(n&7)
		n >>= 3
	}
	field[width-1] = 0
}

// splitName gives the two fields of a name, or says that it does not fit; then
// what it gives is the beginning, for programs that know no PAX.
func splitName(name string) (prefix, rest string, fits bool) {
	if !isASCII(name) {
		return "", "pax", false
	}
	if len(name) <= nameMax {
		return "", name, true
	}
	// The rest is as long as it can be, and not empty without its slash.
	from := len(name) - nameMax - 1
	i := strings.IndexByte(name[from:len(name)-1], '/')
	if i < 0 || from+i > prefixMax || from+i == 0 {
		return "", name[:nameMax], false
	}
	return name[:from+i], name[from+i+1:], true
}

// appendRecord appends a PAX record, "<length> <key>=<value>\n", whose length
// counts its own digits.
func appendRecord(b []byte, key, value string) []byte {
	size := len(key) + len(value) + len(" =\n")
	total := size + len(strconv.Itoa(size))
	total = size + len(strconv.Itoa(total))
	b = strconv.AppendInt(b, int64(total), 10)
	b = append(b, ' ')
	b = append(b, key...)
	b = append(b, '=')
	b = append(b, value...)
	return append(b, '\n')
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// padding gives the bytes that fill up the last block of size bytes.
func padding(size int64) int64 { return -size & (blockSize - 1) }
