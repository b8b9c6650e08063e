// Show the message after a wrong token.
document.getElementById("wrong").hidden = !new URLSearchParams(location.search).has("wrong");
