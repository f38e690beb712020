package zone

// Forged returns value with another payload, and the right checksum.
func Forged(value []byte, k, n int) []byte {
	s := shape{k, n}
	size := int(value[40]) | int(value[41])<<8 | int(value[42])<<16
	payload := make([]byte, len(value)-stripeHeader)
	for i := range payload {
		payload[i] = value[stripeHeader+i] ^ 0x55
	}
	return append(s.header([32]byte(value[8:40]), int(value[6]), size, payload), payload...)
}
