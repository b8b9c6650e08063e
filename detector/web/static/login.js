// Tell whoever comes back with a wrong token.
document.getElementById("wrong").hidden = !new URLSearchParams(location.search).has("wrong");
