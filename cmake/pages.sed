# What Doxygen is to see of a Markdown page: headings with the anchors that links name, and of a link to what is no page
# its text alone.
/^##+ /{
h
s/^#+ +([0-9]+\. )?//
s/[^A-Za-z0-9 -]//g
s/ /-/g
s/.*/\L&/
G
s/^(.*)\n(.*)$/\2 {#\1}/
}
s/(^|[^!])\[([^]]+)\]\(([^)#:]*[^)#:d])\)/\1\2/g
