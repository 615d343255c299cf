# Draws a terminal's text as SVG. A line that begins with "$ " is a command; statuses have the
# colour of how it went.
function escaped(text) {
	gsub(/&/, "\\&amp;", text)
	gsub(/</, "\\&lt;", text)
	gsub(/>/, "\\&gt;", text)
	return text
}
function coloured(text) {
	text = escaped(text)
	if (text ~ /^\$ /)
		return "<tspan fill=\"#79c0ff\" font-weight=\"bold\">" text "</tspan>"
	if (match(text, /(B +|answered )([1-5][0-9][0-9]|-)/)) {
		end = RSTART + RLENGTH
		status = substr(text, end - 1, 1) == "-" ? "-" : substr(text, end - 3, 3)
		colour = status ~ /^2/ ? "#7ee787" : "#ff7b72"
		return substr(text, 1, end - 1 - length(status)) "<tspan fill=\"" colour "\">" status "</tspan>" substr(text, end)
	}
	return text
}
{ lines[NR] = $0; if (length($0) > longest) longest = length($0) }
END {
	while (NR > 0 && lines[NR] == "") NR--
	width = 40 + longest * 8.43
	height = 62 + NR * 20
	printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n", width, height, width, height, escaped(title)
	print "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>"
	print "<circle cx=\"20\" cy=\"18\" r=\"6\" fill=\"#ff5f56\"/><circle cx=\"40\" cy=\"18\" r=\"6\" fill=\"#ffbd2e\"/><circle cx=\"60\" cy=\"18\" r=\"6\" fill=\"#27c93f\"/>"
	print "<g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"14\" fill=\"#c9d1d9\">"
	for (i = 1; i <= NR; i++)
		if (lines[i] != "")
			printf "<text x=\"20\" y=\"%d\" xml:space=\"preserve\">%s</text>\n", 38 + i * 20, coloured(lines[i])
	print "</g>\n</svg>"
}
