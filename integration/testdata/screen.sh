#!/bin/sh
# What the desktop's terminal shows: a sheet of colours. When somebody types
# the word wstun the whole screen turns to one colour, #ff00ff.
printf '\033[2J\033[H\033[?25l' # clear, no cursor: the picture stands still
stty -echo
row=0
while [ $row -lt 37 ]; do
	column=0
	while [ $column -lt 22 ]; do
		printf '\033[48;5;%dm     ' $(((row * 11 + column) % 240 + 16))
		column=$((column + 1))
	done
	printf '\033[0m\n'
	row=$((row + 1))
done
while IFS= read -r word; do
	if [ "$word" = wstun ]; then
		printf '\033[48;2;255;0;255m\033[2J'
	fi
done
